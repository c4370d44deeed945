// Grows and shrinks its heap from several threads, says so, and sleeps.
import java.util.ArrayList;
import java.util.List;

public class Churn {
    static void churn(int megabytes) {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < megabytes; i++) {
            byte[] block = new byte[1 << 20];
            for (int j = 0; j < block.length; j += 4096) {
                block[j] = 1;
            }
            kept.add(block);
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        for (int round = 0; round < 6; round++) {
            List<Thread> threads = new ArrayList<>();
            for (int n = 0; n < 4; n++) {
                Thread thread = new Thread(() -> churn(10));
                thread.start();
                threads.add(thread);
            }
            for (Thread thread : threads) {
                thread.join();
            }
            System.gc();
        }
        System.out.println("done");
        Thread.sleep(60_000);
    }
}
