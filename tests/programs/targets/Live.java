// SPDX-License-Identifier: Apache-2.0
// Holds MIB of live objects whose contents follow from their numbers, replaces some of them all the time,
// and keeps two threads in a dialogue, one in a hot loop and one on a timer.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.TimeUnit;

public class Live {
	static final int CHURNERS = 2;
	static final int WORDS = 120; // about 1 KiB each, with the headers
	static final Path STEPS = Path.of("steps");
	static final Path STOP = Path.of("stop");

	static synchronized void report(String text) {
		try {
			Files.write(STEPS, (text + "\n").getBytes(StandardCharsets.US_ASCII), StandardOpenOption.CREATE,
				    StandardOpenOption.APPEND);
		} catch (Exception e) {
			throw new RuntimeException(e);
		}
	}

	static boolean stopping() {
		return Files.exists(STOP);
	}

	static long mix(long x) {
		x = (x ^ (x >>> 30)) * 0xbf58476d1ce4e5b9L;
		x = (x ^ (x >>> 27)) * 0x94d049bb133111ebL;
		return x ^ (x >>> 31);
	}

	static final class Item {
		final long number;
		final long[] words = new long[WORDS];

		Item(long number) {
			this.number = number;
			for (int i = 0; i < WORDS; i++)
				words[i] = mix(number * WORDS + i);
		}

		boolean right() {
			for (int i = 0; i < WORDS; i++)
				if (words[i] != mix(number * WORDS + i))
					return false;
			return true;
		}
	}

	static final class Churner extends Thread {
		final int id;
		final Item[] items;
		final Random random;
		long sum, next;

		Churner(int id, int count) {
			super("churner " + id);
			this.id = id;
			items = new Item[count];
			random = new Random(id);
			for (int i = 0; i < count; i++)
				items[i] = make();
		}

		Item make() {
			Item item = new Item(next++ * CHURNERS + id);
			sum += mix(item.number);
			return item;
		}

		void replace() {
			int k = random.nextInt(items.length);
			if (!items[k].right())
				report("bad item " + items[k].number);
			sum -= mix(items[k].number);
			items[k] = make();
		}

		public void run() {
			try {
				for (long step = 1; !stopping(); step++) {
					for (int i = 0; i < 2000; i++)
						replace();
					report("churn" + id + " " + step);
					Thread.sleep(10);
				}
				long found = 0;
				for (Item item : items) {
					if (!item.right())
						report("bad item " + item.number + " at the end");
					found += mix(item.number);
				}
				if (found != sum)
					report("bad sum of churner " + id);
			} catch (Throwable e) {
				report("bad " + e);
			}
		}
	}

	static long spin(int rounds) {
		long x = 88172645463325252L;
		double d = 1;
		for (int i = 0; i < rounds; i++) {
			x ^= x << 13;
			x ^= x >>> 7;
			x ^= x << 17;
			d = d * 1.0000001 + (x & 7);
		}
		return x ^ Double.doubleToLongBits(d);
	}

	static void hot() {
		long expected = spin(300_000);
		for (long step = 1; !stopping(); step++) {
			if (spin(300_000) != expected)
				report("bad result of the hot loop");
			report("hot " + step);
			pause(2);
		}
	}

	static void pause(long ms) {
		try {
			Thread.sleep(ms);
		} catch (InterruptedException e) {
			report("bad interruption");
		}
	}

	static void ask(SynchronousQueue<Long> to, SynchronousQueue<Long> from) throws InterruptedException {
		for (long step = 1; !stopping(); step++) {
			to.put(step);
			long answer = from.take();
			if (answer != -step)
				report("bad answer " + answer + " to " + step);
			report("talk " + step);
			pause(5);
		}
		to.put(0L);
	}

	static void answer(SynchronousQueue<Long> to, SynchronousQueue<Long> from) throws InterruptedException {
		for (long question = from.take(); question != 0; question = from.take())
			to.put(-question);
	}

	interface Work {
		void run() throws Exception;
	}

	static Thread thread(String name, Work work) {
		return new Thread(() -> {
			try {
				work.run();
			} catch (Throwable e) {
				report("bad " + e);
			}
		}, name);
	}

	public static void main(String[] args) throws Exception {
		int count = Integer.parseInt(args[0]) * 1024 / CHURNERS;
		List<Thread> threads = new ArrayList<>();
		for (int i = 0; i < CHURNERS; i++)
			threads.add(new Churner(i, count));
		SynchronousQueue<Long> question = new SynchronousQueue<>(), reply = new SynchronousQueue<>();
		threads.add(thread("hot", Live::hot));
		threads.add(thread("ask", () -> ask(question, reply)));
		threads.add(thread("answer", () -> answer(reply, question)));
		for (Thread t : threads)
			t.start();
		ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
		long[] ticks = {0};
		timer.scheduleWithFixedDelay(() -> report("tick " + ++ticks[0]), 10, 10, TimeUnit.MILLISECONDS);
		while (!stopping())
			pause(20);
		for (Thread t : threads)
			t.join();
		timer.shutdown();
		timer.awaitTermination(10, TimeUnit.SECONDS);
		report("done");
	}
}
