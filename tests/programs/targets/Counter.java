// SPDX-License-Identifier: Apache-2.0
// Counter.java PORT: an HTTP server that counts its requests, in memory only.

import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.atomic.AtomicInteger;

class Counter {
	public static void main(String[] arguments) throws Exception {
		AtomicInteger count = new AtomicInteger();
		InetAddress here = InetAddress.getByName("127.0.0.1");
		HttpServer server = HttpServer.create(new InetSocketAddress(here, Integer.parseInt(arguments[0])), 0);

		server.createContext("/", exchange -> {
			byte[] body = String.valueOf(count.incrementAndGet()).getBytes();

			exchange.sendResponseHeaders(200, body.length);
			exchange.getResponseBody().write(body);
			exchange.close();
		});
		server.start();
	}
}
