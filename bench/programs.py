# SPDX-License-Identifier: Apache-2.0
"""The programs that are put to sleep: how each is started, and when it is ready."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class NotReady(Exception):
    pass


def compile_c(name, folder):
    """bench/NAME.c as a program in that folder."""
    binary = os.path.join(folder, name)
    if not os.path.exists(binary):
        subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-O2", "-D_GNU_SOURCE", "-std=gnu17", "-pthread", "-o", binary,
                        os.path.join(HERE, name + ".c")], check=True)
    return binary


def compile_java(folder):
    subprocess.run(["javac", "-d", folder, os.path.join(HERE, "Hold.java")], check=True)


def wait_for_file(work, process, seconds=60):
    end = time.monotonic() + seconds
    while not os.path.exists(os.path.join(work, "ready")):
        if time.monotonic() > end or process.poll() is not None:
            raise NotReady(f"{process.args[0]} did not become ready")
        time.sleep(0.01)


class Program:
    """Something to put to sleep; `word` names it in files and on the command line, `mib` is about what it holds."""

    def __init__(self, word, title, mib, argv, needs=(), settle=0.05):
        self.word, self.title, self.mib, self.argv, self.needs, self.settle = word, title, mib, argv, needs, settle

    def lacks(self):
        return [n for n in self.needs if not shutil.which(n)]

    def start(self, work, **how):
        """The PID, once it is ready. `how`: user, group, environment, as for subprocess."""
        out = os.open(os.path.join(work, "out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=work,
                                       start_new_session=True, **how,
                                       preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        finally:
            os.close(out)
        self.wait(work, process)
        time.sleep(self.settle)
        process.returncode = 0  # it is not ours to wait for
        return process.pid

    def wait(self, work, process):
        wait_for_file(work, process)


class Redis(Program):
    """With so many MiB of values that look like documents, sent by a client that leaves again."""

    def __init__(self, word, title, mib):
        super().__init__(word, title, mib, None, ["redis-server"], settle=0.5)

    def start(self, work, **how):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return super().start(work, **how)

    def wait(self, work, process):
        end = time.monotonic() + 10
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", self.port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise NotReady("redis takes no connections") from None
                time.sleep(0.02)
        with connection:
            self.fill(connection)

    def fill(self, connection, size=2000):
        words = " ".join('{"id": %d, "name": "user-%x", "score": %d}' % (i, i * i * 2654435761 % 2**32, i * 7919 % 10007)
                         for i in range(4000)).encode()
        values = [words[k * 97:k * 97 + size] for k in range(1000)]
        count, sent = self.mib * 2**20 // (size + 64), 0
        while sent < count:
            batch = [b"*3\r\n$3\r\nSET\r\n$12\r\nkey:%08d\r\n$%d\r\n%s\r\n" % (sent + k, size, values[k % 1000])
                     for k in range(min(1000, count - sent))]
            connection.sendall(b"".join(batch))
            sent += len(batch)
            answers = 5 * len(batch)  # +OK\r\n each
            while answers:
                answers -= len(connection.recv(answers))


def all_programs(folder):
    hold = compile_c("hold", folder)
    java = ["java", "-Xms700m", "-Xmx700m", "-XX:+UseG1GC", "-XX:-UsePerfData", "-cp", folder, "Hold", "512"]
    if shutil.which("javac"):
        compile_java(folder)
    return [
        Program("1mib", "1 MiB", 1, [hold, "mib=1"]),
        Program("tree", "tree of 200 processes", 20, [hold, "tasks=199"]),
        Program("1gib", "1 GiB", 1024, [hold, "mib=1024"]),
        Program("1gib-plain", "1 GiB, no word of huge pages", 1024, [hold, "mib=1024", "plain"]),
        Program("1gib-random-plain", "1 GiB, random bytes", 1024, [hold, "mib=1024", "random", "plain"]),
        Program("1gib-zero", "1 GiB, 30 % zero pages", 1024, [hold, "mib=1024", "zero=30"]),
        Program("1gib-huge", "1 GiB, huge pages", 1024, [hold, "mib=1024", "huge"]),
        Program("mappings", "1 GiB, 20,000 mappings, 64 threads", 1024, [hold, "mib=1024", "mappings=20000", "threads=64"]),
        Program("jvm", "JVM, 512 MiB live", 600, java, ["java", "javac"], settle=0.5),
        Redis("redis", "Redis, 1 GiB", 1100),
        Program("4gib", "4 GiB", 4096, [hold, "mib=4096"]),
        Program("4gib-plain", "4 GiB, no word of huge pages", 4096, [hold, "mib=4096", "plain"]),
        Program("4gib-huge", "4 GiB, huge pages", 4096, [hold, "mib=4096", "huge"]),
    ]
