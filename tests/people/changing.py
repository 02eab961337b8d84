# SPDX-License-Identifier: Apache-2.0
"""Changes in a known way when it gets SIGUSR1: three pages, an fd, a thread, a child, the working folder."""

import mmap
import os
import signal
import threading
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the kernel writes the CPU into the program's memory (rseq)
PAGE, PAGES = 4096, 100
block = mmap.mmap(-1, PAGE * PAGES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(PAGES // 2):
    block[i * PAGE] = 1
shared = mmap.mmap(-1, PAGE * 10)
shared[:] = b"s" * PAGE * 10
closed = open("/dev/null")


def change(*_):
    for i in 3, 4, 20:  # in the first half: changed
        block[i * PAGE + 5] = 7
    block[60 * PAGE] = 1  # in the second: new
    shared[0] = ord("t")
    os.rename("before", "after")
    global opened
    closed.close()
    opened = os.open("after", os.O_RDONLY)
    if os.fork() == 0:
        time.sleep(1000)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    os.chdir("folder")
    print("changed", flush=True)


os.mkdir("folder")
open("before", "w").close()
signal.signal(signal.SIGUSR1, change)
print("ready", flush=True)
while True:
    time.sleep(1000)
