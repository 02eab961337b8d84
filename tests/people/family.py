# SPDX-License-Identifier: Apache-2.0
"""A parent and two children that share things: a pipe between the children, a listening socket, a unix socket pair,
an unlinked file, a file with an ugly name. Says `ready` when all of it stands."""

import os
import socket
import sys
import threading
import time

UGLY = "<b>\x1b[31m\u2028&'\"\\.txt"

listener = socket.create_server(("127.0.0.1", 0))
left, right = socket.socketpair()
reader, writer = os.pipe()
gone = open("gone", "w+")
gone.write("x" * 10000)
gone.flush()
os.unlink("gone")
ugly = open(UGLY, "w")
block = bytearray(os.urandom(1 << 20))

# Each child closes its end of `told` when it has no more than the family's test says: then the parent reads the end of file.
heard, told = os.pipe()
for end in (reader, writer):
    if os.fork() == 0:
        os.close(writer if end == reader else reader)
        os.close(heard)
        os.close(told)
        time.sleep(1000)
os.close(reader)
os.close(writer)
os.close(told)
os.read(heard, 1)
os.close(heard)
threading.Thread(target=time.sleep, args=(1000,), name="helper").start()
print("ready", listener.getsockname()[1], reader, writer, flush=True)
time.sleep(1000)
sys.exit(1)
