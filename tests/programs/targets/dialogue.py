# SPDX-License-Identifier: Apache-2.0
"""Answers every line on its standard input with its number; SIGINT and SIGTERM are answered as well.
`exit N` and the end of the input end it."""

import os
import signal
import sys


def say(text):
    os.write(1, f"{text}\n".encode())


def terminate(*_):
    say("terminated")
    os._exit(9)


signal.signal(signal.SIGINT, lambda *_: say("interrupted"))
signal.signal(signal.SIGTERM, terminate)
say("ready")
number = 0
for line in sys.stdin:
    word = line.strip()
    number += 1
    if word.startswith("exit "):
        sys.exit(int(word.split()[1]))
    say(f"{number}:{word}")
say("end")
sys.exit(5)
