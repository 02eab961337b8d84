# SPDX-License-Identifier: Apache-2.0
"""Servers on UDP, asked from outside before and after they slept; and those of languages with runtimes of their own."""

import http.client
import os
import re
import socket
import struct
import subprocess

import harness
from harness import PYTHON, Failure, case, stat_of
from network import count_requests, free_port


class Client:
    """Asks a server that may not have begun yet. Whoever has, gets each question once, however late he answers."""

    def __init__(self, t, port):
        self.t, self.socket = t, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(20 * harness.SLOWER)

    def attempt(self, question):
        try:
            self.socket.send(question)
            return self.socket.recv(2000)
        except ConnectionRefusedError:  # nobody got it
            return None

    def ask(self, question):
        return self.t.until(lambda: self.attempt(question), 20, "an answer", pause=0.02)


COUNTERS = {
    "udp-python": ([PYTHON, "-B", "datagrams.py"], "python3"),
    "udp-node": (["node", "datagrams.js"], "node"),
    "udp-java": (["java", "-Xmx64m", "-Xshare:auto", "Datagrams.java"], "java"),
    "udp-php": (["php", "datagrams.php"], "php"),
}


def count_rounds(t, root, client):
    """A counter in memory. What was sent and not read when it was put to sleep may be lost, so nothing is."""
    count = int(client.ask(b"first").split()[0])
    for number in range(harness.ROUNDS):
        for question in (b"before", b"again"):
            count += 1
            answer = client.ask(question)
            if answer != b"%d %s" % (count, question):
                raise Failure(f"in round {number + 1} the answer is {answer!r}, not {count}")
        t.cycle(root)
        os.unlink(t.image())


def udp_counter(t, argv):
    port = free_port()
    root = t.start([argv[0], *argv[1:-1], t.target(argv[-1]), str(port)])
    count_rounds(t, root, Client(t, port))


for name, (argv, program) in COUNTERS.items():
    case(name, needs=[program], limit=300, argv=argv)(udp_counter)


def dns_question(name):
    labels = b"".join(struct.pack("B", len(label)) + label for label in name.encode().split(b"."))
    return struct.pack("!HHHHHH", 4711, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


@case("dnsmasq", needs=["dnsmasq"], limit=120)
def dnsmasq(t):
    """Names of its own over UDP and TCP; it holds UDP and netlink sockets, and watches a file with inotify."""
    port = free_port()
    t.write("hosts", "10.1.2.3 sleeper.test\n")
    root = t.start(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", "--no-resolv", "--no-hosts",
                    "--listen-address=127.0.0.1", "--bind-interfaces", f"--addn-hosts={t.path('hosts')}",
                    f"--pid-file={t.path('pid')}", "--log-facility=-", "--user=", "--group="])
    client = Client(t, port)
    question = dns_question("sleeper.test")

    def check(answer, over):
        if answer[:2] != question[:2] or not answer.endswith(bytes([10, 1, 2, 3])):
            raise Failure(f"the answer over {over} is {answer!r}")
    for number in range(harness.ROUNDS):
        check(client.ask(question), "UDP")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(struct.pack("!H", len(question)) + question)
            check(s.makefile("rb").read(2 + struct.unpack("!H", s.recv(2))[0] - 2), "TCP")
        t.until(lambda: harness.tree_of(root) == [root], 5, "the end of the process that served TCP")
        t.cycle(root)
        os.unlink(t.image())
    check(client.ask(question), "UDP")


@case("http-php", needs=["php"], limit=120)
def http_php(t):
    port = free_port()
    count_requests(t, t.start(["php", "-d", "opcache.enable=0", "-S", f"127.0.0.1:{port}", t.target("page.php")]), port)


@case("erlang", needs=["erl", "epmd"], limit=120)
def erlang(t):
    """A node that is registered with its port mapper, which sleeps with it."""
    port = free_port()
    subprocess.run(["erlc", "-o", t.work, t.target("datagrams.erl")], check=True, stdout=subprocess.DEVNULL)
    root = t.start(["sh", t.target("node.sh"), str(port), t.work])
    count_rounds(t, root, Client(t, port))


@case("go", needs=["prometheus-node-exporter"], limit=120)
def go(t):
    """A Go program that counts, in memory, how often it was asked for its numbers."""
    port = free_port()
    root = t.start(["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults",
                    "--collector.loadavg"])

    def scrapes():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
        except OSError:
            return None
        return int(re.search(r'promhttp_metric_handler_requests_total\{code="200"\} (\d+)', text)[1]) + 1
    t.until(lambda: scrapes(), 20, f"nobody listens at port {port}")
    for number in range(1, harness.ROUNDS + 1):
        if scrapes() != 2 * number:
            raise Failure(f"in round {number} it has not been asked {2 * number} times")
        t.torpor("dump", root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not stat_of(root), 10, "the end of the server")
        t.restore(root)
        os.unlink(t.image())
        if scrapes() != 2 * number + 1:
            raise Failure(f"after round {number} it has not been asked {2 * number + 1} times")
