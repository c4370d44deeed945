// Grows and shrinks its heap from several goroutines, says so, and sleeps.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

func churn(megabytes int) {
	var kept [][]byte
	for i := 0; i < megabytes; i++ {
		block := make([]byte, 1<<20)
		for j := 0; j < len(block); j += 4096 {
			block[j] = 1
		}
		kept = append(kept, block)
	}
	runtime.KeepAlive(kept)
}

func main() {
	for round := 0; round < 6; round++ {
		var all sync.WaitGroup
		for n := 0; n < 4; n++ {
			all.Add(1)
			go func() {
				defer all.Done()
				// A thread of its own, so that there are starts and ends of threads.
				runtime.LockOSThread()
				churn(10)
			}()
		}
		all.Wait()
		debug.FreeOSMemory()
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("done")
	os.Stdout.Sync()
	time.Sleep(time.Minute)
}
