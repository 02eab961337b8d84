<?php
// SPDX-License-Identifier: Apache-2.0
// datagrams.php PORT: a server on UDP that counts what it is asked, in memory only.

$server = stream_socket_server("udp://127.0.0.1:$argv[1]", $number, $text, STREAM_SERVER_BIND);
$count = 0;
for (;;) {
	$data = stream_socket_recvfrom($server, 1000, 0, $sender);
	stream_socket_sendto($server, ++$count . " $data", 0, $sender);
}
