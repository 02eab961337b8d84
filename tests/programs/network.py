# SPDX-License-Identifier: Apache-2.0
"""Servers on TCP, asked by clients from outside before and after they slept."""

import http.client
import os

import harness
from clients import connected, free_port
from harness import PYTHON, Failure, Skip, case


def start_redis(t):
    port = free_port()
    root = t.start(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", t.work,
                    "--save", "", "--daemonize", "no"])
    client = connected(t, port)
    for first in range(0, 100000, 1000):
        client.send("mset", *[w for i in range(first, first + 1000) for w in (f"key{i}", f"value {i}")])
    for first in range(0, 100000, 1000):
        if client.answer() != "OK":
            raise Failure("redis does not take keys")
    return root, port, client


def check_keys(client, number, generations):
    if client("dbsize") != str(100000 + generations):
        raise Failure(f"redis has {client('dbsize')} keys")
    for i in (0, number, 99999):
        if client("get", f"key{i}") != f"value {i}":
            raise Failure(f"key{i} is {client('get', f'key{i}')!r}")


def check_file(t, root, port):
    """End redis. Another one finds all keys in the file that it has written."""
    connected(t, port)("shutdown")
    t.wait_exit(root, 30)
    t.start(["redis-server", "--port", str(port), "--appendonly", "yes", "--dir", t.work, "--save", ""])
    client = connected(t, port)
    t.until(lambda: client("ping") == "PONG", 30, "redis has not read its file")
    check_keys(client, 1, harness.ROUNDS)


@case("redis", needs=["redis-server"], limit=300)
def redis(t):
    """100,000 keys, and a client that is let go and connects again, round after round."""
    root, port, client = start_redis(t)
    for number in range(harness.ROUNDS):
        client("set", f"generation{number}", number)
        t.torpor("dump", root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not harness.stat_of(root), 10, "the end of redis")
        t.restore(root)
        os.unlink(t.image())
        client = connected(t, port)
        check_keys(client, number * 997, number + 1)
    if client("config", "get", "appendonly") != "2":
        raise Failure("redis does not answer about its configuration")
    check_file(t, root, port)


@case("redis-client-kept", needs=["redis-server"], limit=300)
def redis_client_kept(t):
    """The same, and the client does not notice."""
    if t.setup.tier == "userns":
        raise Skip("only root keeps connections to others, and he needs no namespace")
    harness.own_network()
    root, port, client = start_redis(t)
    for number in range(harness.ROUNDS):
        client.send("set", f"generation{number}", number)
        t.torpor("dump", root, "-o", t.image(), user=False)
        t.statuses.clear()
        t.torpor("restore", t.image(), "--detach", user=False)
        os.unlink(t.image())
        if client.answer() != "OK":
            raise Failure("the answer of the command that was under way is wrong")
        check_keys(client, number * 997, number + 1)


@case("memcached", needs=["memcached"], limit=300)
def memcached(t):
    port = free_port()
    root = t.start(["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0"])

    def ask(connection, text):
        connection.sendall(text.encode())
        return connection.makefile("rb").readline().decode().strip()
    for number in range(harness.ROUNDS):
        connection = connected(t, port).connection
        if ask(connection, f"set key{number} 0 0 5\r\nvalue\r\n") != "STORED":
            raise Failure("memcached does not store")
        t.torpor("dump", root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not harness.stat_of(root), 10, "the end of memcached")
        t.restore(root)
        os.unlink(t.image())
        connection = connected(t, port).connection
        for known in range(number + 1):
            if ask(connection, f"incr key{known} 1\r\n") != "CLIENT_ERROR cannot increment or decrement non-numeric value":
                raise Failure(f"memcached has lost key{known}")


HTTP = {
    "http-python": ([PYTHON, "-B", "counter.py"], "python3"),
    "http-node": (["node", "counter.js"], "node"),
    "http-java": (["java", "-Xmx64m", "-Xshare:auto", "Counter.java"], "java"),
}


def http_counter(t, argv):
    port = free_port()
    count_requests(t, t.start([argv[0], *argv[1:-1], t.target(argv[-1]), str(port)]), port)


def count_requests(t, root, port):
    """A counter, asked for over one connection that stays open, and anew after it was lost."""
    def ask(connection):
        connection.request("GET", "/")
        return int(connection.getresponse().read())

    def fresh():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.connect()
            return connection
        except OSError:
            return None
    count = 0
    for number in range(harness.ROUNDS):
        connection = t.until(fresh, 20, f"nobody listens at port {port}")
        for _ in range(3):
            count += 1
            if ask(connection) != count:
                raise Failure(f"the counter is not {count}")
        t.torpor("dump", root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not harness.stat_of(root), 10, "the end of the server")
        t.restore(root)
        os.unlink(t.image())
    count += 1
    if ask(fresh()) != count:
        raise Failure(f"the counter is not {count} at the end")


for name, (argv, program) in HTTP.items():
    case(name, needs=[program], limit=300, argv=argv)(http_counter)
