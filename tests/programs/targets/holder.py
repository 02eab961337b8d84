# SPDX-License-Identifier: Apache-2.0
"""Counts, and holds things open: `file PATH`, `io_uring`, `tcp PORT`. Says which fds it got in the file `fds`."""

import ctypes
import os
import socket
import sys
import time

from common import expect, report, stopping

held, fds = [], []
words = sys.argv[1:]
while words:
    what = words.pop(0)
    if what == "file":
        held.append(open(words.pop(0), "rb"))
        fds.append(held[-1].fileno())
    elif what == "io_uring":
        fd = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
        expect(fd >= 0, "io_uring_setup")
        fds.append(fd)
    elif what == "tcp":
        held.append(socket.create_connection(("127.0.0.1", int(words.pop(0)))))
        fds.append(held[-1].fileno())
with open("fds", "w") as f:
    f.write(" ".join(map(str, fds)))
step = 0
while not stopping():
    step += 1
    report(f"step {step}")
    time.sleep(0.01)
report("done")
