#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A disk that fails: a file system (FUSE, faulty.c) of which one call, or all from one on, end with EIO.

    disk.py [--torpor FILE] [--list] [NAME...]

With and without a cache for what is written: without, write(2) fails; with it, as with a disk, only fsync(2) can tell.
What is on the disk is looked at after it was mounted anew, so that no cache helps. Needs root, /dev/fuse and libfuse3.
"""

import os
import re
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from common import Before, Steady, compile_steady, kill_tree, main, read_bytes, summary  # noqa: E402
from harness import PYTHON, Failure, Skip, case, compiled_once, read, stat_of, tree_of  # noqa: E402

# Once one of these has failed, an image is not on the disk as it should be.
VITAL = ("create", "write", "fsync", "rename", "fsyncdir")
DUMP = (*VITAL, "fallocate", "flush", "getattr", "open", "truncate")
RESTORE = ("open", "getattr", "read", "flush")


class Disk:
    """A mounted file system that can fail."""

    def __init__(self, t, writeback=False):
        if os.geteuid() != 0:
            raise Skip("only root can mount a file system")
        if not os.path.exists("/dev/fuse"):
            raise Skip("there is no /dev/fuse")
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
        if flags.returncode:
            raise Skip("libfuse3 is not installed")
        self.t, self.writeback = t, writeback
        self.binary = compiled_once(os.path.join(t.setup.folder, "faulty"), os.path.join(HERE, "faulty.c"), "-std=gnu17",
                                    "-D_GNU_SOURCE", "-Wl,--no-as-needed", *flags.stdout.split())
        self.store, self.folder = os.path.join(t.base, "store"), os.path.join(t.base, "disk")
        for folder in (self.store, self.folder):
            os.mkdir(folder)
            t.setup.own(folder)
        self.mount()

    def mount(self):
        argv = [self.binary, self.folder, self.store, *(["writeback"] if self.writeback else [])]
        with self.t.output("disk") as log:
            self.pid = self.t.popen(argv, subprocess.DEVNULL, log, log, user=False)
        self.t.until(lambda: os.path.ismount(self.folder) or self.pid in self.t.statuses, 10, "the disk is not mounted")
        if self.pid in self.t.statuses:
            raise Skip(f"FUSE does not work here: {read(os.path.join(self.t.logs, 'disk')).strip()}")

    def unmount(self):
        subprocess.run(["umount", self.folder], check=True)
        self.t.wait_exit(self.pid)

    def forget(self):
        """What the kernel has in its cache."""
        self.unmount()
        self.mount()

    def fault(self, text):
        with open(self.path(".fault"), "w") as f:
            f.write(text)

    def seen(self):
        """How many calls of the sort that fails there were since the last fault()."""
        return int(read(self.path(".fault")))

    def path(self, name):
        return os.path.join(self.folder, name)

    def files(self):
        return sorted(os.listdir(self.store))


def numbers(most=1 << 20):
    """Which call fails: each of the first ones, then ever fewer."""
    number = 1
    while number < most:
        yield number
        number += 1 + number // 8


# ---- the image ----

def dumps(t, writeback):
    disk = Disk(t, writeback)
    program = Steady(t, 2)
    image, outcomes = disk.path("image.torpor"), {}
    for call in DUMP:
        before = Before(program.root)
        arguments = ["dump", program.root, "-o", image, *([] if call in VITAL else ["--keep-running"])]
        for number in numbers():
            what = f"{call} {number}"
            result, struck = attempt(t, disk, what, arguments)
            if disk.files() != (["image.torpor"] if result.status == 0 else []):
                raise Failure(f"{what}: status {result.status}, and these files: {disk.files()}")
            if result.status == 0 and struck and call in VITAL:
                raise Failure(f"{what}: the dump succeeded")
            if result.status == 0:
                disk.forget()
                t.torpor("verify", image)
                if call in VITAL:
                    t.restore(program.root, disk.path("image"))
                os.unlink(image)
            program.check()
            if not struck:
                break
            before.expect_same(t)
            count(outcomes, result)
    summary(t, outcomes)


case("disk-dump", limit=300, writeback=False)(dumps)
case("disk-dump-writeback", limit=300, writeback=True)(dumps)


SILENT = {
    "cwd": "os.chdir(disk)",
    "file": "file = open(disk + '/data')",
    "mapping": "import mmap; file = open(disk + '/data', 'r+b'); memory = mmap.mmap(file.fileno(), 0); memory[0]; file.close()",
}


def silent(t, hold, call_off):
    """The server of the program's files does not answer: the dump gives up, says which file, and the program runs on."""
    disk = Disk(t)
    with open(disk.path("data"), "w") as f:
        f.write("x" * 100000)
    source = (f"import os, time\ndisk, n = {disk.folder!r}, 0\n{SILENT[hold]}\nwhile True:\n    time.sleep(0.01)\n    n += 1\n"
              f"    open({t.path('count')!r}, 'w').write(f'{{n:09}}')\n")
    root = t.start([PYTHON, "-B", "-c", source])

    def runs():
        before = read(t.path("count"), "")
        t.until(lambda: read(t.path("count"), "") > before, 10, "the program does not run")
    runs()
    os.kill(disk.pid, signal.SIGSTOP)
    try:
        arguments = ["dump", root, "-o", t.image(), "--timeout", "600" if call_off else "0.5"]
        began = time.monotonic()
        pid, number = t.torpor_start(arguments)
        if call_off:
            time.sleep(0.3)
            os.kill(pid, signal.SIGINT)
        result = t.torpor_result(pid, number, arguments, began, 30)
    finally:
        os.kill(disk.pid, signal.SIGCONT)
    if result.status not in (5, -signal.SIGINT) or "E-DUMP-SERVER" not in result.err or disk.folder not in result.err:
        raise Failure(f"{result}")
    if os.path.exists(t.image()):
        raise Failure("there is an image")
    runs()
    t.dump(root)
    t.restore(root)
    runs()
    kill_tree(t, root)


for _hold in SILENT:
    case(f"disk-silent-{_hold}", hold=_hold, call_off=False)(silent)
case("disk-silent-called-off", hold="file", call_off=True)(silent)


@case("disk-restore", limit=300)
def restores(t):
    disk = Disk(t)
    program = Steady(t, 2)
    root, members = program.root, tree_of(program.root)
    image, outcomes = disk.path("image.torpor"), {}
    program.mark()
    t.dump(root, disk.path("image"))
    content = read_bytes(os.path.join(disk.store, "image.torpor"))
    for call in RESTORE:
        for number in numbers():
            reached = False
            for how in ("", " on"):
                for arguments in (["verify", image], ["restore", image, "--detach"]):
                    what = f"{arguments[0]}, {call} {number}{how}"
                    disk.forget()
                    t.statuses.clear()
                    result, struck = attempt(t, disk, what, arguments)
                    reached = reached or struck
                    if result.status == 0 and arguments[0] == "restore":
                        program.again()
                        kill_tree(t, root)
                    expect_nobody(t, members, disk, what)
                    if disk.files() != ["image.torpor"]:
                        raise Failure(f"{what}: these files: {disk.files()}")
                    if struck:
                        count(outcomes, result)
            if not reached:
                break
    if read_bytes(os.path.join(disk.store, "image.torpor")) != content:
        raise Failure("the image has changed")
    t.restore(root, disk.path("image"))
    program.again()
    summary(t, outcomes)


def attempt(t, disk, what, arguments, statuses=(0, 5)):
    """Run torpor with this fault. (result, whether a call failed)"""
    call, number = what.split(", ")[-1].split()[:2]
    disk.fault(what.split(", ")[-1])
    result = t.torpor(*arguments, expect=None)
    struck = disk.seen() >= int(number)
    disk.fault("none")
    # It worked, or it says that the disk failed: not that the image is bad, nor that the usage is wrong.
    if result.status not in statuses or result.status == 5 and not re.search("Input/output error|whether the disk fails", result.err):
        raise Failure(f"{what}: {result}")
    return result, struck


def expect_nobody(t, members, disk, what):
    """But the file system's own process."""
    def left():
        return [p for p in {*members, *tree_of(os.getpid())[1:]} if p != disk.pid and stat_of(p)]
    t.until(lambda: not left(), 5, f"{what}: processes are left")


def count(outcomes, result):
    outcome = "done all the same" if result.status == 0 else "refused"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1


# ---- the files of a program ----

MAPPER = """import mmap, signal, sys
f = open(sys.argv[1], "r+b")
shared, own = mmap.mmap(f.fileno(), 0), mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)
own[:4], shared[4096:4100] = b"mine", b"ours"
signal.signal(signal.SIGUSR1, lambda *_: open("answer" if own[:4] == b"mine" else "lost", "w").close())
open("answer", "w").close()
while True:
    signal.pause()
"""


class Mapper:
    """It has a file of the disk open and mapped, and does not look at it but when asked."""

    def __init__(self, t, disk, name):
        self.t = t
        with open(os.path.join(disk.store, name), "wb") as f:
            f.write(bytes(16384))
        t.setup.own(os.path.join(disk.store, name))
        t.write("mapper.py", MAPPER)
        self.root = t.start([PYTHON, "-B", t.path("mapper.py"), disk.path(name)])
        self.await_answer()

    def await_answer(self):
        self.t.until(lambda: os.path.exists(self.t.path("answer")), 20, "the program does not answer")
        os.unlink(self.t.path("answer"))

    def check(self):
        os.kill(self.root, signal.SIGUSR1)
        self.await_answer()


@case("disk-program", limit=300)
def files_of_program(t):
    """The disk fails that the program's own files are on."""
    disk, outcomes = Disk(t), {}
    for number in numbers():
        program = Mapper(t, disk, f"data{number}")
        # A file whose name cannot be looked up looks as if it had been removed, and is refused as that (status 1).
        result, struck = attempt(t, disk, f"getattr {number} on", ["dump", program.root, "-o", t.image(), "--keep-running"],
                                 statuses=(0, 1, 5))
        if bool(result.status) == os.path.exists(t.image()):
            raise Failure(f"getattr {number}: status {result.status}, and an image or none")
        program.check()
        if not struck:
            break
        kill_tree(t, program.root)
        count(outcomes, result)
    t.dump(program.root)
    for call in ("getattr", "open", "read", "flush"):
        for number in numbers():
            t.statuses.clear()
            result, struck = attempt(t, disk, f"{call} {number} on", ["restore", t.image(), "--detach"], statuses=(0, 1, 5))
            if result.status == 0:
                program.check()
                kill_tree(t, program.root)
            expect_nobody(t, [program.root], disk, f"{call} {number}")
            if not struck:
                break
            count(outcomes, result)
    t.restore(program.root)
    program.check()
    summary(t, outcomes)


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
