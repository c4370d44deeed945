// A service that answers requests over HTTP and asks itself, 200 times a second, and may leak in one way after the first quarter of
// its time: service HOW SECONDS, where HOW is none, parked, timers, map or bodies.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

var kept = map[int][]byte{}

// A pipe in which nothing ever comes.
var silent [2]int

// A goroutine in a system call keeps a thread.
func park() {
	go syscall.Read(silent[0], make([]byte, 1))
}

// A timer that nobody stops keeps what its function needs.
func timer() {
	buffer := filled()
	time.AfterFunc(24*time.Hour, func() { kept[0] = buffer })
}

// A response whose body nobody closes keeps its connection, and with it two files and three goroutines.
func body(address string) {
	if _, err := http.Get(address); err != nil {
		panic(err)
	}
}

func filled() []byte {
	buffer := make([]byte, 64<<10)
	for i := 0; i < len(buffer); i += 4096 {
		buffer[i] = 1
	}
	return buffer
}

func answer(writer http.ResponseWriter, request *http.Request) {
	writer.Write(filled())
}

func ask(client *http.Client, address string) {
	response, err := client.Get(address)
	if err != nil {
		panic(err)
	}
	scratch := make([]byte, 32<<10)
	for {
		if _, err := response.Body.Read(scratch); err != nil {
			break
		}
	}
	response.Body.Close()
}

func main() {
	how := os.Args[1]
	seconds, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	if err := syscall.Pipe(silent[:]); err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(listener, http.HandlerFunc(answer))
	address := fmt.Sprintf("http://%v/", listener.Addr())
	client := &http.Client{}
	length := time.Duration(seconds) * time.Second
	begin := time.Now()
	for n := 0; time.Since(begin) < length; n++ {
		ask(client, address)
		if n%10 == 0 && time.Since(begin) > length/4 {
			switch how {
			case "parked":
				if n%100 == 0 {
					park()
				}
			case "timers":
				timer()
			case "map":
				kept[n] = filled()
			case "bodies":
				if n%100 == 0 {
					body(address)
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}
