# SPDX-License-Identifier: Apache-2.0
"""Talking to programs: through pipes, and through a shell on a terminal."""

import os
import pty
import re
import select
import time

from harness import PYTHON, SLOWER, Failure


class Dialogue:
    """The near ends of the standard streams of a program."""

    def __init__(self, read_fd, write_fd):
        self.read_fd, self.write_fd, self.seen = read_fd, write_fd, ""

    def send(self, text):
        os.write(self.write_fd, text.encode())

    def expect(self, pattern, seconds=20):
        """Read until the pattern was seen; what was read up to its end is consumed."""
        end = time.monotonic() + seconds * SLOWER
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.read_fd], [], [], left)[0]:
                raise Failure(f"{pattern!r} did not come, but {self.seen[-500:]!r}")
            try:
                text = os.read(self.read_fd, 4096).decode("utf-8", "replace")
            except OSError:
                text = ""
            if not text:
                raise Failure(f"the stream ended before {pattern!r}, after {self.seen[-500:]!r}")
            self.seen += text


def at_pipes(start):
    """start(stdin, stdout) with two new pipes. Returns what it returned and the dialogue."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    result = start(in_read, out_write)
    os.close(in_read)
    os.close(out_write)
    return result, Dialogue(out_read, in_write)


def dialogue(t):
    def start(stdin, stdout):
        with t.output("stderr") as err:
            return t.popen([PYTHON, t.target("dialogue.py")], stdin, stdout, err)
    root, talk = at_pipes(start)
    talk.expect("ready\n")
    return root, talk


def restore_at_pipes(t, *options):
    def start(stdin, stdout):
        return t.torpor_start(["restore", t.image(), *options], stdin=stdin, stdout=stdout)
    t.statuses.clear()
    (pid, _), talk = at_pipes(start)
    return pid, talk


def expect_status(t, pid, *statuses):
    status = t.wait_exit(pid, 20)
    if status not in statuses:
        raise Failure(f"torpor restore ended with {status}, not {statuses[0]}: {t.errors(t.calls)}")


class Terminal(Dialogue):
    """An interactive shell of the user on a terminal of its own."""

    def __init__(self, t):
        master, slave = pty.openpty()
        t.setup.own(os.ttyname(slave))
        environment = {"TERM": "dumb", "PS1": "shell> ", "HISTFILE": ""}
        # setsid -c makes the terminal the controlling one.
        self.shell = t.popen(["setsid", "-c", "bash", "--norc", "--noprofile", "-i"], slave, slave, slave,
                             session=False, environment=environment)
        os.close(slave)
        super().__init__(master, master)
        self.expect("shell> ")

    def close(self, t):
        self.send("exit\n")
        t.wait_exit(self.shell, 20)
        os.close(self.read_fd)
