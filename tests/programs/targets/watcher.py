# SPDX-License-Identifier: Apache-2.0
"""Tells of every file that appears, is written or vanishes in a folder, as inotifywait does: watcher.py FOLDER REPORT."""

import ctypes
import os
import select
import struct
import sys

IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_CLOSE_WRITE = 0x40, 0x80, 0x100, 0x200, 0x8
NAMES = {IN_MOVED_FROM: "from", IN_MOVED_TO: "to", IN_CREATE: "new", IN_DELETE: "gone", IN_CLOSE_WRITE: "written"}

libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
if libc.inotify_add_watch(fd, sys.argv[1].encode(), sum(NAMES)) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
poll = select.epoll()
poll.register(fd, select.EPOLLIN)
report = open(sys.argv[2], "a", buffering=1)
report.write("ready\n")
while True:
    poll.poll()
    data = os.read(fd, 65536)
    while data:
        wd, mask, cookie, size = struct.unpack_from("iIII", data)
        report.write(f"{NAMES.get(mask, mask)} {data[16:16 + size].rstrip(bytes(1)).decode()}\n")
        data = data[16 + size:]
