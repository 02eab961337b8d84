# SPDX-License-Identifier: Apache-2.0
"""torpor where the kernel lacks what newer ones brought: every fallback at once, under a seccomp filter."""

from harness import PYTHON, Skip, Steps, case, compiled_once, finish


def launcher(t):
    if t.setup.account is None:
        raise Skip("only root can set a filter and keep the file capability")
    binary = compiled_once(t.path("without"), t.target("without.c"), "-O1")
    return [binary, str(t.setup.account.pw_uid), str(t.setup.account.pw_gid)]


def sleeps_and_wakes(t, argv, labels):
    t.launcher = launcher(t)
    steps = Steps(t, labels)
    root = t.start(argv)
    steps.advance(3, seconds=60)
    t.torpor("dump", root, "-o", t.image(), "--keep-running", "--pause", "track")
    steps.advance(3, seconds=60)
    t.dump(root)
    t.restore(root)
    steps.advance(5)
    finish(t, root, steps)


@case("old-kernel-python", needs=["cc"])
def python(t):
    sleeps_and_wakes(t, [PYTHON, "-B", t.target("plain.py"), "64"], ["step"])


@case("old-kernel-threads", needs=["cc"])
def threads(t):
    sleeps_and_wakes(t, [PYTHON, "-B", t.target("threads.py")], [f"thread{k}" for k in range(8)])


@case("old-kernel-pool", needs=["cc"])
def pool(t):
    sleeps_and_wakes(t, [PYTHON, "-B", t.target("pool.py")], ["step"])
