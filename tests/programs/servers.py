# SPDX-License-Identifier: Apache-2.0
"""Servers of several processes: nginx with its workers, and a Redis whose child is writing the file anew."""

import http.client
import os
import signal

import harness
from harness import Failure, case, read, stat_of
from network import check_file, check_keys, connected, free_port, start_redis

NGINX = """
worker_processes 2;
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
	access_log {work}/access.log;
	client_body_temp_path {work}/body;
	proxy_temp_path {work}/proxy;
	fastcgi_temp_path {work}/fastcgi;
	uwsgi_temp_path {work}/uwsgi;
	scgi_temp_path {work}/scgi;
	keepalive_timeout 600;
	server {{
		listen 127.0.0.1:{port};
		root {work}/pages;
	}}
}}
"""
PAGE = "".join(f"line {n}\n" for n in range(20000))


class Nginx:
    def __init__(self, t):
        self.t, self.port, self.asked = t, free_port(), 0
        config = t.write("nginx.conf", NGINX.format(work=t.work, port=self.port))
        os.mkdir(t.path("pages"), 0o755)
        t.write("pages/page", PAGE)
        self.root = t.start(["nginx", "-p", t.work, "-c", config, "-e", t.path("error.log")])
        self.workers()

    def workers(self):
        """The PIDs of both, once they are there."""
        def find():
            return [pid for pid in harness.tree_of(self.root)[1:] if stat_of(pid)]
        return set(self.t.until(lambda: len(found := find()) == 2 and found, 10, "two workers"))

    def connect(self):
        def attempt():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.connect()
                return connection
            except OSError:
                return None
        return self.t.until(attempt, 20, f"nobody listens at port {self.port}")

    def ask(self, connection):
        connection.request("GET", "/page")
        answer = connection.getresponse()
        if answer.status != 200 or answer.read().decode() != PAGE:
            raise Failure(f"nginx answers with {answer.status} or with another page")
        self.asked += 1

    def cycle(self):
        t = self.t
        t.torpor("dump", self.root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not stat_of(self.root), 10, "the end of nginx")
        t.restore(self.root)
        os.unlink(t.image())


def reset(connection):
    """Has the other end let go of the connection?"""
    try:
        connection.request("GET", "/page")
        return connection.getresponse().status != 200
    except (OSError, http.client.HTTPException):
        return True


@case("nginx", needs=["nginx"], limit=300)
def nginx(t):
    """A connection that stays open is let go in each round, and a new one gets the page; then new workers."""
    server = Nginx(t)
    workers = server.workers()
    for number in range(harness.ROUNDS):
        connection = server.connect()
        for _ in range(2):
            server.ask(connection)
        server.cycle()
        if server.workers() != workers:
            raise Failure(f"the workers {workers} became {server.workers()}")
        if not reset(connection):
            raise Failure("a connection that was let go still answers")
    harness.kill(server.root, signal.SIGHUP)  # read the configuration again: other workers take over
    t.until(lambda: not workers & server.workers(), 10, "new workers")
    server.cycle()
    for _ in range(4):
        server.ask(server.connect())
    t.until(lambda: read(t.path("access.log")).count('"GET /page HTTP/1.1" 200') == server.asked, 10,
            f"the log does not tell of {server.asked} requests")
    harness.kill(server.root, signal.SIGQUIT)
    if t.wait_exit(server.root, 20) != 0:
        raise Failure(f"nginx ended with status {t.statuses[server.root]}: {read(t.path('error.log'))[-500:]}")
    if "[alert]" in read(t.path("error.log")) or "[emerg]" in read(t.path("error.log")):
        raise Failure(f"nginx complains: {read(t.path('error.log'))[-500:]}")


def info(client, name):
    return dict(line.split(":", 1) for line in client("info", "persistence").splitlines() if ":" in line)[name]


def rewrite(t, client):
    """A child that was forked with all the keys begins to write them to a new file."""
    client("config", "set", "rdb-key-save-delay", -2)  # a pause at every second key: some seconds
    client("bgrewriteaof")
    t.until(lambda: info(client, "aof_rewrite_in_progress") == "1", 10, "the child")
    client("config", "set", "rdb-key-save-delay", 0)


@case("redis-rewriting", needs=["redis-server"], limit=300)
def redis_rewriting(t):
    """Redis and its child are put to sleep again and again while the child writes."""
    root, port, client = start_redis(t)
    for number in range(harness.ROUNDS):
        if info(client, "aof_rewrite_in_progress") == "0":
            rewrite(t, client)
        client("set", f"generation{number}", number)
        t.torpor("dump", root, "-o", t.image(), "--tcp", "close")
        t.until(lambda: not stat_of(root), 10, "the end of redis")
        if ", 2 processes, " not in t.torpor("inspect", t.image()).out:
            raise Failure(f"the child is not in the image of round {number + 1}")
        t.restore(root)
        os.unlink(t.image())
        client = connected(t, port)
    t.until(lambda: info(client, "aof_rewrite_in_progress") == "0", 60, "the end of the child")
    if info(client, "aof_last_bgrewrite_status") != "ok" or info(client, "aof_last_write_status") != "ok":
        raise Failure(f"the file was not written anew: {client('info', 'persistence')}")
    check_keys(client, 777, harness.ROUNDS)
    check_file(t, root, port)
