# SPDX-License-Identifier: Apache-2.0
"""Python: plain, threads, asyncio with a subprocess, a pool of processes."""

from harness import PYTHON, case, counting


def python(t, target, *arguments):
    return [PYTHON, "-B", t.target(target), *arguments]


@case("python")
def plain(t):
    counting(t, python(t, "plain.py", "64"), ["step"])


@case("python-threads")
def threads(t):
    counting(t, python(t, "threads.py"), [f"thread{k}" for k in range(8)])


@case("python-asyncio")
def asynchronous(t):
    # The executor of asyncio starts threads when it needs them; processes stay the same.
    counting(t, python(t, "asynchronous.py"), ["talk", "tick", "compute"])


@case("python-pool")
def pool(t):
    counting(t, python(t, "pool.py"), ["step"])
