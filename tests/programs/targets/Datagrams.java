// SPDX-License-Identifier: Apache-2.0
// Datagrams.java PORT: a server on UDP that counts what it is asked, in memory only.

import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.charset.StandardCharsets;

class Datagrams {
	public static void main(String[] arguments) throws Exception {
		DatagramChannel channel = DatagramChannel.open();
		Selector selector = Selector.open();
		int count = 0;

		channel.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
		channel.configureBlocking(false);
		channel.register(selector, SelectionKey.OP_READ);
		for (;;) {
			ByteBuffer data = ByteBuffer.allocate(1000);
			SocketAddress sender;

			selector.select();
			selector.selectedKeys().clear();
			while ((sender = channel.receive(data)) != null) {
				String text = ++count + " " + new String(data.array(), 0, data.position(), StandardCharsets.UTF_8);

				channel.send(ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8)), sender);
				data.clear();
			}
		}
	}
}
