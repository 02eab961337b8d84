# SPDX-License-Identifier: Apache-2.0
"""Tells each signal it gets, with the number of its kind; answers every line with how many of all kinds it got."""

import os
import signal

COUNTED = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH]
counts = {signo: 0 for signo in COUNTED}


def say(text):
    os.write(1, f"{text}\n".encode())


def count(signo, _):
    counts[signo] += 1
    say(f"{signal.Signals(signo).name} {counts[signo]}")


for one in COUNTED:
    signal.signal(one, count)
# A signal that comes right before a read does not end it, and Python would count it only when the next line comes.
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
say("ready")
while os.read(0, 100):
    say("in all " + " ".join(map(str, counts.values())))
