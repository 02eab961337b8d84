// SPDX-License-Identifier: Apache-2.0
// Holds MIB of live objects, replaces them one after the other, and counts that in the file `state`, behind 8 bytes.

import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Random;

public class Work {
	public static void main(String[] args) throws Exception {
		MappedByteBuffer state;
		try (FileChannel file = FileChannel.open(Path.of("state"), StandardOpenOption.CREATE, StandardOpenOption.READ,
				StandardOpenOption.WRITE)) {
			state = file.map(FileChannel.MapMode.READ_WRITE, 0, 4096);
		}
		state.order(ByteOrder.LITTLE_ENDIAN);
		byte[][] live = new byte[Integer.parseInt(args[0]) * 64][16 * 1024 - 16];
		Random random = new Random(1);
		Files.createFile(Path.of("ready"));
		for (long steps = 0;; steps++) {
			byte[] made = new byte[16 * 1024 - 16];
			for (int k = 0; k < made.length; k += 64)
				made[k] = (byte) random.nextInt();
			live[random.nextInt(live.length)] = made;
			state.putLong(8, steps);
			if (steps % 16 == 0)
				Thread.sleep(1);
		}
	}
}
