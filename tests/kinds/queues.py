# SPDX-License-Identifier: Apache-2.0
"""What others do to the POSIX message queues of a program that sleeps, or while torpor looks."""

import ctypes
import os
import random
import time

import harness
import selfcheck
from harness import Failure, case
from selfcheck import Program

KILLS = 40
libc = ctypes.CDLL(None, use_errno=True)


def names(t):
    return [line.encode() for line in harness.read(t.path("queues"), "").split()]


def cleaned(function):
    """The case, and the removal of what is left of it."""
    def run(t, **arguments):
        try:
            function(t, **arguments)
        finally:
            t.end_all()
            for name in names(t):
                libc.mq_unlink(name)
    run.__name__ = function.__name__
    return run


class Queue:
    """A queue, from outside."""

    def __init__(self, name):
        self.fd = libc.mq_open(name, os.O_RDWR | os.O_NONBLOCK)
        if self.fd < 0:
            raise Failure(f"there is no queue {name}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def send(self, text, priority):
        if libc.mq_send(self.fd, text, len(text), priority):
            raise Failure(f"sending: {os.strerror(ctypes.get_errno())}")

    def receive(self):
        text, priority = ctypes.create_string_buffer(100), ctypes.c_uint()
        size = libc.mq_receive(self.fd, text, 100, ctypes.byref(priority))
        return (text.raw[:size], priority.value) if size >= 0 else None


@cleaned
def gone(t):
    """Removed meanwhile, or emptied: they hold again what they held."""
    program = Program(t, "message_queue")
    for number, change in enumerate((lambda q: None, lambda q: [m for m in iter(q.receive, None)])):
        t.dump(program.root)
        for name in names(t):
            with Queue(name) as queue:
                change(queue)
            if number == 0:
                libc.mq_unlink(name)
        t.restore(program.root)
        program.verify(f"after restore {number + 1}")
    program.end()
    if any(libc.mq_unlink(name) == 0 for name in names(t)):
        raise Failure("the program's own removal of its queues has failed")


@cleaned
def changed(t):
    """Others have sent to it: that is there as well. They have taken from it: refused, or accepted when told to."""
    program = Program(t, "message_queue")
    t.dump(program.root)
    with Queue(names(t)[0]) as queue:
        queue.send(b"late", 5)
        t.restore(program.root)
        order = [queue.receive() for _ in range(7)]
        if order[3] != (b"late", 5) or order[0] != (b"urgent", 31000) or order[6] != (b"", 0):
            raise Failure(f"the queue holds {order}")
        for text, priority in order[:3] + order[4:]:
            queue.send(text, priority)
        program.verify("when the message of others is gone")
        t.dump(program.root)
        queue.receive()
        result = t.restore(program.root, expect=1)
        if f"the POSIX message queue {names(t)[0].decode()} lost messages that waited in it" not in result.err:
            raise Failure(f"torpor does not say what is missing: {result}")
        if queue.receive() != (b"first", 7):
            raise Failure("the failed restore has changed the queue")
        queue.send(b"first", 7)
        t.torpor("restore", t.image(), "--detach", "--allow-changed-files")
        queue.send(b"urgent", 31000)
        while queue.receive():
            pass
        for text, priority in (b"third", 3), (b"first", 7), (b"third, too", 3), (b"", 0), (b"first, too", 7), (b"urgent", 31000):
            queue.send(text, priority)
    program.verify("after the restore")
    program.end()


@cleaned
def failed(t):
    """A restore that fails leaves no queue."""
    program = Program(t, "message_queue")
    t.dump(program.root)
    for name in names(t):
        libc.mq_unlink(name)
    t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", expect=None)
    if any(libc.mq_unlink(name) == 0 for name in names(t)):
        raise Failure("the failed restore has left a queue")
    t.until(lambda: not harness.stat_of(program.root), 10, "the end of the failed restore's tasks")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


@cleaned
def killed(t):
    """torpor is killed while it looks: all messages are still there, in their order."""
    program = Program(t, "message_queue")
    took = t.torpor("dump", program.root, "-o", t.image(), "--keep-running", "--no-sync").seconds
    for number in range(KILLS):
        pid, _ = t.torpor_start(["dump", program.root, "-o", t.image(), "--keep-running", "--no-sync"])
        time.sleep(random.uniform(0.2, 1) * took)
        t.end(pid)
        t.until(lambda: len(harness.tree_of(os.getpid())) == 3, 10, "the end of the process that looks into queues")
        program.verify(f"after kill {number + 1}")
    program.end()


def declare():
    for way in selfcheck.WAYS:
        case(f"message_queue-{way.__name__}", kind="message_queue")(cleaned(way))
    for name, function in {"gone": gone, "changed": changed, "failed": failed, "killed": killed}.items():
        case(f"message_queue-{name}")(function)
