#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of the kinds: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

Each program of this folder sets its state up and verifies it from inside (see common.h). It is compiled with
$CC and run as the ordinary user of tests/programs: once without torpor, then saved and restored (plain), restored
twice from one image (twice), and many times in a row (rounds: TORPOR_TEST_ROUNDS, 10).
"""

import argparse
import fnmatch
import glob
import importlib.util
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = os.path.join(HERE, "..", "programs")
sys.path.insert(0, PROGRAMS)
import harness  # noqa: E402
from harness import Failure, Skip, case  # noqa: E402

BINARIES = None  # where the compiled programs are

# Of those that stand for themselves, the name is that of the kind.
KINDS = """device directory epoll eventfd path_handle pipe proc_file regular_file unix_pair""".split()

# What refused.c can put at fd 42, and what torpor must say of it.
REFUSED = {
    "timerfd": "is a timer",
    "signalfd": "receives signals",
    "inotify": "watches files",
    "pidfd": "refers to a process",
    "io_uring": "is an io_uring instance",
    "userfaultfd": "handles page faults",
    "secretmem": "is secret memory",
    "tcp_listening": "is a TCP socket (listening, 127.0.0.1:",
    "tcp_connected": "is a TCP socket (established, from 127.0.0.1:",
    "udp": "is a UDP socket (protocol 17, 127.0.0.1:",
    "netlink": "is a netlink socket",
    "unix_listening": "is a unix socket with a name or a named peer, listening, a socket",
    "unix_abstract": "is a unix socket with a name or a named peer, @torpor test",
    "in_flight": "is a unix socket with file descriptors or credentials in its queue",
    "terminal_master": "is the master of a terminal",
    "message_queue": "is a POSIX message queue",
    "gone_directory": "is a directory that is no longer found by this path",
    "gone_handle": "is a handle (O_PATH) of a file that is no longer found by this path",
    "gone_fifo": "is a FIFO that is no longer found by this path",
    "foreign_proc": "belongs to process",
    "outside_pipe": "is connected to process",
    "lease": "holds a lock",
}


# ---- a program that is asked to verify itself ----

class Program:
    def __init__(self, t, name, argument=None, **streams):
        self.t, self.name = t, name
        self.result = t.path("result")
        argv = [os.path.join(BINARIES, name), t.path("pid"), self.result] + ([argument] if argument else [])
        self.root = t.popen(argv, **streams) if streams else t.start(argv)
        t.until(lambda: os.path.exists(t.path("pid")) or self.root in t.statuses, 20, f"{name} is not set up")
        status = t.statuses.get(self.root)
        if status == 77:
            raise Skip("the kernel does not have it, or does not let this user make it")
        if status is not None:
            raise Failure(f"{name} ended with status {status}: {harness.read(t.logs + '/stderr', '').strip()}")

    def ask(self):
        """Let the program verify its state; its answer comes with answer()."""
        if os.path.exists(self.result):
            os.unlink(self.result)
        os.kill(self.root, signal.SIGUSR1)

    def answer(self, when):
        t = self.t
        t.until(lambda: os.path.exists(self.result) or self.root in t.statuses, 20, f"{self.name} {when}: no answer")
        text = harness.read(self.result, f"it ended with status {t.statuses.get(self.root)}").strip()
        if text != "ok":
            raise Failure(f"{self.name} {when}: {text}")

    def verify(self, when):
        self.ask()
        self.answer(when)

    def end(self):
        os.kill(self.root, signal.SIGTERM)
        status = self.t.wait_exit(self.root, 20)
        if status != 0:
            raise Failure(f"{self.name} ended with status {status}")

    def kill(self):
        tree = harness.tree_of(self.root)
        for pid in tree:
            os.kill(pid, signal.SIGKILL)
        self.t.until(lambda: not any(map(harness.stat_of, tree)), 10, f"the end of {tree} after SIGKILL")


# ---- the ways to save and restore ----

def alone(t, kind):
    program = Program(t, kind)
    for number in range(2):
        program.verify("without torpor")
    program.end()


def plain(t, kind):
    program = Program(t, kind)
    t.cycle(program.root)
    program.verify("after the restore")
    program.verify("a second time after the restore")
    program.end()


def compared(t, kind):
    program = Program(t, kind, "compared")
    t.compare_cycle(program.root)
    program.verify("after the restore")
    program.end()


def twice(t, kind):
    program = Program(t, kind)
    t.dump(program.root)
    files = harness.Snapshot(t, [t.work])
    try:
        for time_ in ("first", "second"):
            t.restore(program.root)
            program.verify(f"after the {time_} restore")
            program.kill()
            files.put_back()
    finally:
        files.drop()


def rounds(t, kind):
    program = Program(t, kind)
    for number in range(harness.ROUNDS):
        t.cycle(program.root)
        program.verify(f"in round {number + 1}")
    program.end()


def refused(t, thing, words):
    program = Program(t, "refused", thing)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    if "fd 42" not in result.err or words not in result.err:
        raise Failure(f"the refusal does not speak of fd 42 and say {words!r}: {result}")
    if os.listdir(t.images):
        raise Failure(f"the refused dump left {os.listdir(t.images)}")
    t.untraced(program.root)
    program.verify("after the refusal")
    program.end()


# ---- standard streams that lead outside ----

def restore_joined(t, root, stdin, stdout, stderr):
    """Restore with these streams; torpor itself has nothing to say on them."""
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", "--pidfile", os.path.join(t.images, "pid"), stdin=stdin, stdout=stdout, stderr=stderr)
    if not harness.stat_of(root):
        raise Failure(f"{root} is not there after the restore")


def outside_pipes(t):
    ends = [os.pipe() for stream in range(3)]
    program = Program(t, "outside", stdin=ends[0][0], stdout=ends[1][1], stderr=ends[2][1])
    t.dump(program.root)
    for a, b in ends:
        os.close(a)
        os.close(b)
    t.write("in", "a line\n")
    t.write("out", "")
    t.write("err", "")
    with open(t.path("in")) as i, open(t.path("out"), "a") as o, open(t.path("err"), "a") as e:
        restore_joined(t, program.root, i, o, e)
    program.verify("after the restore")
    program.end()
    for name, expected in ("out", "out\nnine\nsecond\n"), ("err", "err\n"):
        if harness.read(t.path(name)) != expected:
            raise Failure(f"std{name} got {harness.read(t.path(name))!r}")


def make_terminal(t):
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    t.setup.own(os.ttyname(slave))
    return master, slave


def outside_terminal(t):
    master, slave = make_terminal(t)
    program = Program(t, "outside", "terminal", stdin=slave, stdout=slave, stderr=slave)
    t.dump(program.root)
    os.close(slave)
    os.close(master)
    master, slave = make_terminal(t)
    restore_joined(t, program.root, slave, slave, slave)
    os.write(master, b"a line\n")
    program.verify("after the restore")
    program.end()
    got = os.read(master, 1000).decode()
    if got != "out\nnine\nerr\nsecond\n":
        raise Failure(f"the terminal got {got!r}")


def declare():
    for kind in KINDS:
        for way in (alone, plain, compared, twice, rounds):
            case(f"{kind}-{way.__name__}", kind=kind)(way)
    case("outside-pipes")(outside_pipes)
    case("outside-terminal")(outside_terminal)
    for thing, words in REFUSED.items():
        case(f"refused-{thing}", thing=thing, words=words)(refused)


# ---- running ----

def load_runner():
    spec = importlib.util.spec_from_file_location("programs_run", os.path.join(PROGRAMS, "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder):
    """Compile every program of this folder where the user can run it."""
    os.mkdir(folder)
    flags = "-std=gnu17 -Wall -Wextra -Werror -D_GNU_SOURCE -O1 -g".split()
    for source in sorted(glob.glob(os.path.join(HERE, "*.c"))):
        name = os.path.basename(source)[:-2]
        if name != "common":
            subprocess.run([os.environ.get("CC", "cc"), *flags, source, os.path.join(HERE, "common.c"),
                            "-o", os.path.join(folder, name), "-lrt"], check=True)
    return folder


def choose(names):
    unknown = [n for n in names if not any(fnmatch.fnmatch(c.name, n) for c in harness.CASES)]
    if unknown:
        sys.exit("run.py: no such case: " + ", ".join(unknown))
    return [c for c in harness.CASES if not names or any(fnmatch.fnmatch(c.name, n) for n in names)]


def main():
    global BINARIES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default=os.path.normpath(os.path.join(HERE, "..", "..", "build", "torpor")))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-j", type=int, default=1, dest="jobs")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()

    declare()
    cases = choose(options.names)
    if options.list:
        print("\n".join(c.name for c in cases))
        return 0
    if not os.access(options.torpor, os.X_OK):
        sys.exit(f"run.py: {options.torpor} is not there; build it first")
    runner = load_runner()
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    setup = runner.make_setup(os.path.abspath(options.torpor))
    BINARIES = build(os.path.join(setup.folder, "kinds"))
    counts = runner.run(setup, cases, options.jobs)
    if counts["failed"]:
        print(f"logs are kept in {setup.folder}")
    else:
        shutil.rmtree(setup.folder, ignore_errors=True)
    skipped = f", {counts['skip']} skipped" if counts["skip"] else ""
    print(f"{counts['ok']} passed, {counts['failed']} failed{skipped}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
