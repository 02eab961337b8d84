# SPDX-License-Identifier: Apache-2.0
"""Clients of servers under test, and ports for these."""

import os
import socket

from harness import Failure

PORTS = (20000, 29000)  # below those that the kernel gives to clients: none of them can take it meanwhile


def free_port():
    for port in range(PORTS[0] + os.getpid() % 8000, PORTS[1]):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise Failure("no port is free")


class Redis:
    """A client that speaks RESP by itself: each call is one command, and returns one answer."""

    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.stream = self.connection.makefile("rb")

    def send(self, *words):
        words = [str(w).encode() for w in words]
        self.connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def answer(self):
        line = self.stream.readline()
        if line == b"$-1\r\n":
            return None
        if line[:1] == b"$":
            data = self.stream.read(int(line[1:]) + 2)
            return data[:-2].decode()
        return line[1:-2].decode()

    def __call__(self, *words):
        self.send(*words)
        return self.answer()


def connected(t, port):
    def attempt():
        try:
            return Redis(port)
        except OSError:
            return None
    return t.until(attempt, 20, f"nobody listens at port {port}")
