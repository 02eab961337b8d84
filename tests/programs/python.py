# SPDX-License-Identifier: Apache-2.0
"""Python: plain, threads, asyncio with a subprocess, a pool of processes."""

from harness import PYTHON, Failure, Steps, case, counting, finish, kib, tree_of


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


@case("python-prefork")
def prefork(t):
    """A server that loads much and then forks: the workers share it afterwards as before."""
    steps = Steps(t, ["step"])
    root = t.start(python(t, "prefork.py"))
    steps.advance(3)
    for _ in range(3):
        before = sum(kib(pid, "Pss_Anon") for pid in tree_of(root))
        t.cycle(root)
        after = sum(kib(pid, "Pss_Anon") for pid in tree_of(root))
        if after > 1.1 * before:
            raise Failure(f"after the restore the tree has {after} KiB of its own, not {before} KiB")
        steps.advance(3)
    finish(t, root, steps)
