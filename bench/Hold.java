// SPDX-License-Identifier: Apache-2.0
// Holds MIB of live objects and makes a little garbage all the time.

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;

public class Hold {
	static byte[] garbage;

	public static void main(String[] args) throws Exception {
		byte[][] live = new byte[Integer.parseInt(args[0]) * 64][];
		Random random = new Random(1);
		for (int i = 0; i < live.length; i++) {
			live[i] = new byte[16 * 1024 - 16];
			for (int k = 0; k < live[i].length; k += 4)
				live[i][k] = (byte) random.nextInt();
		}
		Files.createFile(Path.of("ready"));
		for (int i = 0;; i++) {
			garbage = new byte[4096];
			live[i % live.length][i & 1023]++;
			Thread.sleep(5);
		}
	}
}
