# SPDX-License-Identifier: Apache-2.0
"""A terminal with a shell in it: what comes in by the FIFO `keys` is typed, what is shown is appended to `screen`.

    pane.py COLUMNS ROWS COMMAND...
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

os.mkfifo("keys")
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[3], sys.argv[3:])
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", int(sys.argv[2]), int(sys.argv[1]), 0, 0))
keys = os.open("keys", os.O_RDWR | os.O_NONBLOCK)
while True:
    ready = select.select([master, keys], [], [])[0]
    if master in ready:
        try:
            shown = os.read(master, 65536)
        except OSError:
            break
        with open("screen", "ab") as f:
            f.write(shown)
    elif keys in ready:
        os.write(master, os.read(keys, 65536))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
