# SPDX-License-Identifier: Apache-2.0
"""Programs that hold something in memory only: R its variables, ssh-agent its keys, gdb the program it debugs."""

import os
import re
import subprocess

import harness
from harness import Failure, case, stat_of


def user_runs(t, argv, **arguments):
    """The output of a command of the user, which must succeed."""
    call = subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=t.work,
                          env={**t.setup.environment(), **arguments}, **t.setup.user_arguments())
    if call.returncode != 0:
        raise Failure(f"{' '.join(argv)} ended with status {call.returncode}: {call.stderr.strip()}")
    return call.stdout.strip()


def feed(t, text):
    """Into the FIFO that the program reads its commands from, and keeps open itself."""
    with open(t.path("commands"), "w") as f:
        f.write(text)


# ---- R ----

R_BEGIN = """
set.seed(4711); m <- matrix(rnorm(250000), 500); model <- lm(mpg ~ wt, data = mtcars); e <- new.env(); e$count <- 0
count <- function() { e$count <- e$count + 1; e$count }
"""
R_STEP = 'cat(count(), sprintf("%.9f", sum(m)), sprintf("%.6f", coef(model)[[2]]), sprintf("%.9f", runif(1)), "\\n")\n'


def answers_of_r(t, steps):
    """What R says without torpor."""
    call = subprocess.run(["R", "--vanilla", "--slave"], input=R_BEGIN + R_STEP * steps, capture_output=True, text=True,
                          timeout=60, cwd=t.work, env=t.setup.environment(), **t.setup.user_arguments())
    return call.stdout.splitlines()


@case("r", needs=["R"], limit=200)
def r(t):
    """An interpreter that is fed by a FIFO: a matrix, a model, a closure, the state of the random numbers."""
    expected = answers_of_r(t, harness.ROUNDS + 1)
    root = t.start(["/bin/sh", "-c", "mkfifo commands && exec 3<>commands && exec R --vanilla --slave <&3 3<&- >answers"])
    t.until(lambda: os.path.exists(t.path("commands")), 20, "the FIFO")
    feed(t, R_BEGIN)
    for number in range(harness.ROUNDS + 1):
        feed(t, R_STEP)
        # A line comes in pieces.
        text = t.until(lambda: (a := harness.read(t.path("answers"), "")).count("\n") > number and a, 30, "an answer")
        lines = text.splitlines()
        if lines != expected[:number + 1]:
            raise Failure(f"R says {lines[-1]!r}, and without torpor {expected[number]!r}")
        if number < harness.ROUNDS:
            t.cycle(root)
    feed(t, "q()\n")
    if t.wait_exit(root, 20) != 0:
        raise Failure(f"R ended with status {t.statuses[root]}")


# ---- ssh-agent ----

@case("ssh-agent", needs=["ssh-agent", "ssh-add", "ssh-keygen"])
def ssh_agent(t):
    """It forbids its user to look at it, so only root can put it to sleep: with the key that it holds."""
    socket = t.path("agent")
    root = t.start(["ssh-agent", "-D", "-a", socket])
    t.until(lambda: os.path.exists(socket), 10, "the socket of ssh-agent")
    agent = {"SSH_AUTH_SOCK": socket}
    user_runs(t, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key"])
    user_runs(t, ["ssh-add", "-q", "key"], **agent)
    os.unlink(t.path("key"))  # from now on, only the agent has it
    held = user_runs(t, ["ssh-add", "-l"], **agent)

    def check():
        if user_runs(t, ["ssh-add", "-l"], **agent) != held:
            raise Failure("ssh-agent holds other keys")
        user_runs(t, ["ssh-add", "-T", "key.pub"], **agent)  # signs with it, and verifies that
    result = t.torpor("dump", root, "-o", t.image(), expect=3)
    if "not dumpable" not in result.err:
        raise Failure(f"torpor does not say why not: {result}")
    check()
    by_root = os.geteuid() == 0 and t.setup.tier != "userns"
    for number in range(harness.ROUNDS if by_root else 0):
        t.torpor("dump", root, "-o", t.image(), user=False)
        t.until(lambda: not stat_of(root), 10, "the end of ssh-agent")
        t.torpor("restore", t.image(), "--detach", user=False)
        os.unlink(t.image())
        check()


# ---- gdb ----

@case("gdb", needs=["gdb"])
def gdb(t):
    """A debugger with a program that it has stopped: refused, and both go on."""
    script = "mkfifo commands && exec 3<>commands && exec gdb -q -nx --args sleep 1000 <&3 3<&- >answers 2>&1"
    root = t.start(["/bin/sh", "-c", script])
    t.until(lambda: os.path.exists(t.path("commands")), 20, "the FIFO")

    def expect(command, pattern):
        seen = len(harness.read(t.path("answers"), ""))
        feed(t, command + "\n")
        return t.until(lambda: re.search(pattern, harness.read(t.path("answers"), "")[seen:]), 20,
                       f"gdb does not answer {pattern!r} to {command!r}: {harness.read(t.path('answers'))!r}")
    expect("set breakpoint pending on", "")
    expect("catch syscall clock_nanosleep", "Catchpoint 1")
    expect("run", r"Catchpoint 1 \(call to syscall clock_nanosleep\)")
    traced = harness.tree_of(root)[-1]
    for target in root, traced:
        result = t.torpor("dump", target, "-o", t.image(), expect=1)
        if f"task {traced} (sleep): process {root} is tracing it" not in result.err:
            raise Failure(f"torpor does not say who is traced by whom: {result}")
        if os.listdir(t.images):
            raise Failure(f"the refused dump left {os.listdir(t.images)}")
    expect("print 6 * 7", "= 42")
    expect("call (int)getpid()", f"= {traced}")
    expect("kill", "killed")
    feed(t, "quit\n")
    if t.wait_exit(root, 20) != 0:
        raise Failure(f"gdb ended with status {t.statuses[root]}")
