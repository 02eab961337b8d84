# SPDX-License-Identifier: Apache-2.0
"""A full-screen program in small: reads single keys, and draws anew on SIGWINCH. `q` ends it."""

import os
import signal
import sys
import termios
import tty

before = termios.tcgetattr(0)
tty.setcbreak(0)
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"drawn\n"))
os.write(1, b"ready\n")
while True:
    key = os.read(0, 1)
    if key == b"q":
        break
    os.write(1, b"key " + key + b"\n")
termios.tcsetattr(0, termios.TCSADRAIN, before)
os.write(1, b"left\n")
sys.exit(4)
