# SPDX-License-Identifier: Apache-2.0
"""sleep and shell loops."""

import time

from harness import ROUNDS, SLOWER, Failure, case, counting


@case("sleep")
def sleep(t):
    """It must never end early, nor sleep on much longer after it was woken up for the last time."""
    for seconds in (3 * SLOWER, 2 * SLOWER):  # so long that it does not end before it is saved
        began = time.monotonic()
        root = t.start(["sleep", str(seconds)])
        for _ in range(ROUNDS if seconds == 3 * SLOWER else 1):
            t.cycle(root)
            time.sleep(0.02)
        t.compare_cycle(root)
        woken = time.monotonic()
        status = t.wait_exit(root, 20)
        ended = time.monotonic()
        if status != 0:
            raise Failure(f"sleep ended with status {status}")
        if ended - began < seconds:
            raise Failure(f"sleep {seconds} ended after {ended - began:.3f} s")
        if ended - woken > seconds + SLOWER:
            raise Failure(f"sleep {seconds} ended {ended - woken:.3f} s after it was woken up")


@case("sleep-keep-running")
def sleep_keep(t):
    seconds, began = 2 * SLOWER, time.monotonic()
    root = t.start(["sleep", str(seconds)])
    t.dump(root, keep=True)
    if t.wait_exit(root, 20) != 0 or not seconds <= time.monotonic() - began < seconds + SLOWER:
        raise Failure(f"the original ended with {t.statuses[root]} after {time.monotonic() - began:.3f} s")
    t.restore(root)
    if t.wait_exit(root, 20) != 0:
        raise Failure(f"the copy ended with status {t.statuses[root]}")


@case("shell-dash", program="dash")
@case("shell-bash", program="bash")
def loop(t, program):
    counting(t, [program, t.target("counter.sh")], ["loop"], static=False)


@case("shell-bash-alone")
def alone(t):
    counting(t, ["bash", t.target("builtin.sh")], ["loop"])
