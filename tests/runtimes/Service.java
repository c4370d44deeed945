// A service in a JVM that warms up: its requests fill a cache that has a bound, and are compiled on the way. Service SECONDS.
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

public class Service {
    static final int MOST = 2_000;

    static final Map<Integer, byte[]> cache = new LinkedHashMap<>(MOST, 0.75f, true) {
        @Override
        protected boolean removeEldestEntry(Map.Entry<Integer, byte[]> eldest) {
            return size() > MOST;
        }
    };

    static synchronized byte[] page(int number) {
        return cache.computeIfAbsent(number, n -> new byte[16 << 10]);
    }

    static long answer(long request) {
        byte[] page = page((int) (request * 2_654_435_761L >>> 8) & 4095);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 400; i++) {
            text.append((char) ('a' + (page[i] + request + i) % 26));
        }
        return text.toString().hashCode();
    }

    public static void main(String[] arguments) throws InterruptedException {
        long end = System.nanoTime() + Long.parseLong(arguments[0]) * 1_000_000_000L;
        ExecutorService pool = Executors.newFixedThreadPool(4);
        for (long request = 0; System.nanoTime() < end; request++) {
            long number = request;
            pool.submit(() -> answer(number));
            if (request % 10 == 0) {
                Thread.sleep(10);
            }
        }
        pool.shutdownNow();
    }
}
