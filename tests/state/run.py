#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of what is neither a file nor a socket: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

Each program of this folder sets the state of tasks, threads and memory up and verifies it from inside (see
tests/kinds/common.h). How it is compiled, saved and restored: tests/programs/selfcheck.py.
"""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import selfcheck  # noqa: E402
import sysv  # noqa: E402
from harness import Failure, case  # noqa: E402
from selfcheck import Program  # noqa: E402

PROGRAMS = """registers threads signals task memory shared unseen many""".split()
TICKING = """timers""".split()  # /proc shows other pending signals from one moment to the next

# What refused.c can set up, the exit status of torpor, and what it must say.
REFUSED = {
    "sealed": (1, "is sealed (mseal)"),
    "watched": (1, "is registered with a userfaultfd"),
    "ring": (1, "is an io_uring instance"),
    "aio": (1, "asynchronous I/O context"),
    "shared_undo": (1, "shares what is to be undone on semaphores with task"),
    "unreadable_queue": (1, "cannot be seen (MSG_COPY)"),
    "nondumpable": (3, "not dumpable"),
    "own_folder": (1, "has a working folder, root and umask of its own"),
    "own_files": (1, "has a file descriptor table of its own"),
}

LARGEST_IMAGE = 8 << 20  # of `memory`, which reserves terabytes


def refused(t, thing, status, words):
    program = Program(t, "refused", thing)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=status)
    if words not in result.err:
        raise Failure(f"the refusal does not say {words!r}: {result}")
    if os.listdir(t.images):
        raise Failure(f"the refused dump left {os.listdir(t.images)}")
    t.untraced(program.root)
    program.verify("after the refusal")
    program.end()


HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages"


def huge_pages(t, way, program="hugetlb", size=2048, pages=6):
    """Only root can set huge pages aside; without any, the program is skipped. One case at a time counts them,
    also among several runs on one machine."""
    path = HUGE_PAGES.format(size)
    with open(path if os.path.exists(path) else __file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = harness.read(path, "0")
        if os.access(path, os.W_OK):
            with open(path, "w") as f:
                f.write(str(int(before) + pages))
        try:
            way(t, program)
        finally:
            t.end_all()
            if os.access(path, os.W_OK):
                with open(path, "w") as f:
                    f.write(before)


def giant_page(t, name):
    program = Program(t, name, "giant")
    t.cycle(program.root)
    program.verify("after the restore")
    program.end()


CRASHES = "default ignored caught blocked pending".split()


def crash(t, how):
    """Not even the action of SIGSEGV, by which its end of a restore is told, is another one afterwards."""
    program = Program(t, "crash", how)
    for _ in range(2):
        t.cycle(program.root)
        program.verify("after the restore")
    program.end()


def posix_ipc(t, way):
    """Its semaphore is mapped under a name that it has lost before (sem_open), and then under that which it has: not
    compared. What is left in /dev/shm is removed."""
    try:
        way(t, "posix_ipc")
    finally:
        t.end_all()
        for name in harness.read(t.path("names"), "").split():
            if os.path.exists(os.path.join("/dev/shm", name)):
                os.unlink(os.path.join("/dev/shm", name))


def image_size(t):
    program = Program(t, "memory")
    size = os.path.getsize(t.dump(program.root))
    if size > LARGEST_IMAGE:
        raise Failure(f"the image has {size} bytes")


def packed(t, kind, how):
    """Packed, it is smaller, and what is restored from it is the same."""
    program = Program(t, kind)
    raw = os.path.getsize(t.dump(program.root, "raw", keep=True, options=["--compress=none"]))
    size = os.path.getsize(t.dump(program.root, options=[f"--compress={how}"]))
    if size > 0.9 * raw:
        raise Failure(f"the packed image has {size} bytes, the raw one {raw}")
    t.torpor("verify", t.image())
    t.restore(program.root)
    program.verify("after the restore")
    program.end()


def whole(path):
    with open(path, "rb") as f:
        return f.read()


def chained(t, kind, how):
    """Three images, each against the one before: each restores what was there, alone or joined, and no base is changed."""
    program = Program(t, kind)
    names = ["first", "second", "third"]
    for before, name in zip([None] + names, names):
        options = [f"--compress={how}"] + (["--parent", t.image(before)] if before else [])
        t.dump(program.root, name, keep=name != "third", options=options)
        if name != "third":
            program.verify("after a dump")  # which also changes something
        if before and os.path.getsize(t.image(name)) > 0.5 * os.path.getsize(t.image("first")):
            raise Failure(f"the {name} image has {os.path.getsize(t.image(name))} bytes")
    contents = [whole(t.image(name)) for name in names]
    shown = t.torpor("inspect", t.image("third")).out
    if not re.search(r"^  parent: .* of the pages are in second.torpor \(3 images in all\)", shown, re.M):
        raise Failure(f"inspect does not name the parent: {shown}")
    for name in names:
        t.torpor("verify", t.image(name))
        t.torpor("squash", t.image(name), "-o", t.image("joined"))
        compared = t.torpor("diff", t.image(name), t.image("joined")).out
        if not re.search(r"^0 changes; pages: 0 changed, 0 new, 0 gone", compared, re.M):
            raise Failure(f"{name} differs from its joined one: {compared}")
    t.restore(program.root, "third")
    program.verify("after the restore")
    program.kill()
    t.restore(program.root, "joined")
    program.verify("after the restore of the joined image")
    program.end()
    if contents != [whole(t.image(name)) for name in names]:
        raise Failure("an image of the chain has changed")


def chained_broken(t):
    """A chain of which a file is missing or another one is not restored; nothing is left."""
    program = Program(t, "threads")
    t.dump(program.root, "first", keep=True)
    refused = t.torpor("dump", program.root, "--keep-running", "--parent", t.image("first"), "-o", t.image("first"), expect=2)
    if "would take the place" not in refused.err:
        raise Failure(f"a dump over its own parent: {refused}")
    t.dump(program.root, "other", keep=True)
    t.dump(program.root, options=["--parent", t.image("first")])
    os.rename(t.image("first"), t.image("away"))
    for words in ("is not there", "is another image"):
        if words == "is another image":
            os.rename(t.image("other"), t.image("first"))
        result = t.restore(program.root, expect=4)
        if words not in result.err or "E-IMAGE-PARENT" not in result.err or "first.torpor" not in result.err:
            raise Failure(f"torpor does not say {words!r} of the parent: {result}")
        result = t.torpor("inspect", t.image(), expect=4)
        if "(PARENT MISSING)" not in result.out or "DAMAGED" in result.out or "put that back" not in result.err:
            raise Failure(f"inspect does not say that the parent is missing: {result}")
    os.rename(t.image("away"), t.image("first"))
    t.restore(program.root)
    program.verify("after the restore")
    program.end()


PACKED = [("memory", "zstd"), ("shared", "zstd:3"), ("shared", "lz4"), ("large", "lz4"), ("prefork", "zstd")]


def unseen_running(t):
    """The program that runs on finds its memory as it was: no page more."""
    program = Program(t, "unseen")
    t.dump(program.root, keep=True)
    program.verify("after a dump with --keep-running")
    program.kill()
    os.unlink(t.path("named"))
    t.restore(program.root)
    program.verify("after the restore")
    program.end()


def large_running(t):
    """What a child shares with its parent since fork(2), they share after a dump."""
    program = Program(t, "large")
    tree = harness.tree_of(program.root)
    before = [harness.kib(pid, "Private_Dirty") for pid in tree]
    t.dump(program.root, keep=True)
    after = [harness.kib(pid, "Private_Dirty") for pid in tree]
    if any(now > then + 1024 for then, now in zip(before, after)):
        raise Failure(f"the dump gave the processes memory of their own: {before} KiB became {after} KiB")
    program.end()


def memory_ahead(t):
    """So much memory that its copying begins beside the reading of smaps."""
    program = Program(t, "memory", "bulk")
    for _ in range(2):
        t.cycle(program.root)
        program.verify("after the restore")
    program.end()


def prefork_shared(t, tier=None, argument=None):
    """What a tree shares since fork(2) is in the image once, and it shares it again."""
    t.setup.work_in(tier) if tier else None
    program = Program(t, "prefork", argument)
    before = sum(harness.kib(pid, "Pss_Anon") for pid in harness.tree_of(program.root))
    size = os.path.getsize(t.dump(program.root)) >> 10
    if size > 1.1 * before:
        raise Failure(f"the image has {size} KiB, the tree had {before} KiB of its own")
    t.restore(program.root)
    after = sum(harness.kib(pid, "Pss_Anon") for pid in harness.tree_of(program.root))
    t.log(f"{before} KiB before, {after} KiB after, {size} KiB stored")
    if after > 1.1 * before:
        raise Failure(f"after the restore the tree has {after} KiB of its own, not {before} KiB")
    program.verify("after the restore")
    program.end()


def large_damaged(t):
    """One byte of the memory differs. It is found while the tree is being made, and nothing is left of that."""
    program = Program(t, "large")
    tree = harness.tree_of(program.root)
    t.dump(program.root)
    with open(t.image(), "rb") as f:
        good = f.read()
    for part in (0.05, 0.7):
        place = int(len(good) * part)
        with open(t.image("bad"), "wb") as f:
            f.write(good[:place] + bytes([good[place] ^ 1]) + good[place + 1:])
        t.setup.own(t.image("bad"))
        for command in (["restore", t.image("bad"), "--detach"], ["verify", t.image("bad")]):
            result = t.torpor(*command, expect=4)
            if "the checksum of extent" not in result.err:
                raise Failure(f"{command[0]} does not say what is damaged: {result}")
        t.reap()
        if any(map(harness.stat_of, tree)):
            raise Failure(f"the failed restore left something of {tree}")
    t.restore(program.root)
    program.verify("after the restore from the whole image")
    program.end()


KILLS = 60


def maps_of(pid):
    return [line.split()[:5] for line in harness.read(f"/proc/{pid}/maps").splitlines()]


def unseen_killed(t):
    """A dump without capability makes mappings in the program; killed at any moment, it leaves none."""
    program = Program(t, "unseen")
    before = maps_of(program.root)
    t.setup.give_up_capability()
    for number in range(KILLS):
        pid, _ = t.torpor_start(["dump", program.root, "--keep-running", "--no-sync", "-o", t.image()])
        time.sleep(random.uniform(0.005, 0.08))
        t.end(pid)
        program.verify(f"after kill {number + 1}")
        if maps_of(program.root) != before:
            raise Failure(f"other mappings after kill {number + 1}: {before} became {maps_of(program.root)}")
    program.end()


def uses_tracking(pid):
    return " uw" in harness.read(harness.proc(f"{pid}/smaps"), "")


def moment(t, pause):
    """The image of a program that runs on is of one moment, and nothing is left in the program."""
    program = Program(t, "moment")
    for number in range(4):
        t.torpor("dump", program.root, "-o", t.image(), "--keep-running", "--no-sync", "--pause", pause)
        if uses_tracking(program.root):
            raise Failure(f"it is still tracked after dump {number + 1}")
        stats = json.loads(t.torpor("inspect", "--json", t.image()).out)["image"]["stats"]
        if stats.get("way", "pause_copy") != f"pause_{pause}":
            raise Failure(f"not by way of {pause}: {stats}")
        if number % 2:
            program.verify(f"after dump {number + 1}")
    for number in range(2):
        program.kill()
        t.restore(program.root)
        program.verify(f"after restore {number + 1}")
    t.cycle(program.root, static=False)
    program.verify("saved and restored as usual")
    program.end()


def stats_of(t, name):
    return json.loads(t.torpor("inspect", "--json", t.image(name)).out)["image"]["stats"]


def expect_tracked(t, root, wanted, when):
    """One process keeps track of the program, or none does, and its memory is watched accordingly."""
    t.until(lambda: len(harness.trackers_of(root)) == wanted, 5, f"{when}: the trackers are {harness.trackers_of(root)}")
    # A tracker that was killed is gone a little before the kernel has closed what it had.
    t.until(lambda: not harness.stat_of(root) or bool(uses_tracking(root)) == bool(wanted), 5,
            f"{when}: its memory is {'not ' if wanted else ''}watched")


TRACKING = ["--keep-running", "--track", "--no-sync"]


def snapshot(t, program, name, *options, base=None, unread=False):
    """One more image. `unread`: the tracking since its base has spared most of the reading."""
    t.dump(program.root, name, keep="--keep-running" in options, options=[*options, *(["--parent", t.image(base)] if base else [])])
    stats = stats_of(t, name)
    if bool(int(stats.get("pages_unread", 0))) != unread:
        raise Failure(f"image {name} {'was' if unread else 'was not'} to be taken by tracking: {stats}")
    expect_tracked(t, program.root, "--track" in options, f"after image {name}")


def restore_all(t, program, names):
    """Of images of a program that ran on. It may have had its result open in one, which it has written anew since."""
    for name in names:
        t.restore(program.root, name, options=["--allow-changed-files"])
        program.verify(f"restored from image {name}")
        program.kill()


def replaced(t, pause, argument=None):
    """A chain of images of which each finds what was written by what the one before has left armed."""
    program = Program(t, "replaced", argument)
    for number in range(6):
        snapshot(t, program, str(number), *TRACKING, "--pause", pause, base=str(number - 1) if number else None, unread=number > 0)
        program.verify(f"after image {number}")
    snapshot(t, program, "6", "--no-sync", base="5", unread=True)  # which ends it
    restore_all(t, program, map(str, range(7)))


def replaced_swapped(t):
    """As above, where a part of the memory really goes to a disk."""
    swap = os.path.join(t.base, "swap")
    with open(swap, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, 64 << 20)
    os.chmod(swap, 0o600)
    if subprocess.run(["mkswap", swap], stdout=subprocess.DEVNULL).returncode or subprocess.run(["swapon", swap]).returncode:
        raise harness.Skip("no swap file can be made here")
    try:
        replaced(t, "auto")
    finally:
        t.end_all()
        subprocess.run(["swapoff", swap], check=True)


def moment_tracked(t, pause):
    """A chain of moments of a program that changes all the time."""
    program = Program(t, "moment", "quick")
    for number in range(6):
        snapshot(t, program, str(number), *TRACKING, "--pause", pause, base=str(number - 1) if number else None, unread=number > 0)
        if number % 2:
            program.verify(f"after image {number}")
    snapshot(t, program, "6", "--no-sync", base="5", unread=True)
    restore_all(t, program, map(str, range(7)))


def moment_chained(t):
    """A chain of clones of a program that changes all the time, without tracking in between."""
    program = Program(t, "moment", "quick")
    for number in range(4):
        snapshot(t, program, str(number), "--keep-running", "--no-sync", "--pause", "clone", base=str(number - 1) if number else None)
        if stats_of(t, str(number))["way"] != "pause_clone":
            raise Failure(f"image {number} is not of a clone: {stats_of(t, str(number))}")
    program.kill()
    restore_all(t, program, "0123")


DIRECT = """
import os, signal
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # the number of its CPU is in its memory: rseq(2)
memory = bytearray(os.urandom(1 << 20)) * 80
open("file", "w").close(); fd = os.open("file", os.O_RDONLY | os.O_DIRECT); open("ready", "w").close()
while True: signal.pause()
"""


def auto_clones(t):
    """Where all memory would be copied in the pause, as where O_DIRECT makes tracking worth nothing, it is cloned."""
    root = t.start([harness.PYTHON, "-B", "-c", DIRECT])
    t.until(lambda: os.path.exists(t.path("ready")), 20, "the start of the program")
    for name, base in (("first", None), ("second", "first")):
        t.dump(root, name, keep=True, options=["--track", "--no-sync", *(["--parent", t.image(base)] if base else [])])
        stats = stats_of(t, name)
        if (stats["way"] == "pause_clone") != (base is None):
            raise Failure(f"{name}: {stats}")
    if int(stats["pages_unread"]) < 80 << 8:
        raise Failure(f"what was tracked since the pause does not count: {stats}")
    t.dump(root, "last", options=["--parent", t.image("second")])
    compared = t.torpor("diff", t.image("second"), t.image("last"), expect=None).out
    if "pages: 0 changed" not in compared:
        raise Failure(f"the images differ: {compared}")


def prefork_running(t, pause):
    """What a tree shares is in the image once, also when it runs on, and is tracked; and in none that follows."""
    program = Program(t, "prefork")
    before = sum(harness.kib(pid, "Pss_Anon") for pid in harness.tree_of(program.root))
    size = os.path.getsize(t.dump(program.root, "0", keep=True, options=["--track", "--no-sync", "--pause", pause])) >> 10
    if size > 1.1 * before:
        raise Failure(f"the image has {size} KiB, the tree has {before} KiB of its own")
    child = os.path.getsize(t.dump(program.root, "1", keep=True, options=["--track", "--no-sync", "--pause", pause, "--parent", t.image("0")])) >> 10
    if child > 0.2 * size or not int(stats_of(t, "1").get("pages_unread", 0)):
        raise Failure(f"the second image has {child} KiB: {stats_of(t, '1')}")
    program.verify("after the dumps")
    program.kill()
    for name in "01":
        t.restore(program.root, name)
        after = sum(harness.kib(pid, "Pss_Anon") for pid in harness.tree_of(program.root))
        if after > 1.1 * before:
            raise Failure(f"restored from image {name}, the tree has {after} KiB of its own, not {before} KiB")
        program.verify(f"restored from image {name}")
        program.kill()


def tracked_bases(t):
    """Only the image with which the tracking began is one whose pages need not be read; any dump ends it."""
    program = Program(t, "replaced")
    snapshot(t, program, "first", *TRACKING)
    program.verify("after the first")
    snapshot(t, program, "second", *TRACKING, base="first", unread=True)
    program.verify("after the second")
    snapshot(t, program, "other base", *TRACKING, base="first")
    program.verify("after one with another base")
    snapshot(t, program, "plain", "--keep-running", "--no-sync")
    program.verify("after one without tracking")
    snapshot(t, program, "untracked", *TRACKING, base="other base")
    program.verify("after one that was not tracked")
    t.torpor("squash", t.image("untracked"), "-o", t.image("joined"))
    os.rename(t.image("untracked"), t.image("moved"))
    t.torpor("check", program.root)
    expect_tracked(t, program.root, 1, "after a check")
    refused = t.torpor("dump", program.root, "--parent", t.image("moved"), "-o", t.image("moved"), expect=2)
    if "would take the place" not in refused.err:
        raise Failure(f"a dump over its own parent: {refused}")
    expect_tracked(t, program.root, 1, "after a dump that was refused")
    snapshot(t, program, "moved base", *TRACKING, base="moved", unread=True)
    program.verify("after the base was moved")
    snapshot(t, program, "joined base", *TRACKING, base="joined")
    program.verify("after the base was joined")
    if "not tracked any more" not in t.torpor("untrack", program.root).out:
        raise Failure("untrack does not say that it has done it")
    expect_tracked(t, program.root, 0, "after untrack")
    if "was not tracked" not in t.torpor("untrack", program.root).out:
        raise Failure("untrack does not say that there is nothing to do")
    snapshot(t, program, "last", *TRACKING, base="joined base")
    snapshot(t, program, "end", "--no-sync")
    restore_all(t, program, ["first", "second", "other base", "plain", "moved", "moved base", "joined base", "last", "end"])


def tracked_lost(t):
    """The tracker is killed: the program is as it was, and the next dump compares."""
    program = Program(t, "replaced")
    snapshot(t, program, "0", *TRACKING)
    for number in range(1, 4):
        program.verify(f"after image {number - 1}")
        harness.kill(harness.trackers_of(program.root)[0], signal.SIGKILL)
        expect_tracked(t, program.root, 0, "after the end of the tracker")
        program.verify("after the end of the tracker")
        snapshot(t, program, str(number), *TRACKING, base=str(number - 1))
    program.verify("after the last image")
    program.end()
    t.until(lambda: not harness.trackers_of(program.root), 5, "the tracker stays after the end of the program")
    restore_all(t, program, "0123")


EXECUTES = """
import os, signal, sys
number, memory = int(sys.argv[1]), bytearray([int(sys.argv[1]) + 1]) * (16 << 20)
def again(*_):
    os.execv(sys.executable, [sys.executable, "-B", "executes.py", str(number + 1)])
def look(*_):
    with open("new", "w") as f:
        f.write("ok" if memory == bytearray([number + 1]) * (16 << 20) else "not ok")
    os.rename("new", f"looked{number}")
signal.signal(signal.SIGUSR1, again); signal.signal(signal.SIGUSR2, look)
open(f"ready{number}", "w").close()
while True: signal.pause()
"""


def tracked_executes(t):
    """The program executes itself between two dumps: other memory at the same addresses."""
    t.write("executes.py", EXECUTES)
    root = t.start([harness.PYTHON, "-B", "executes.py", "0"], environment={"PYTHONMALLOC": "malloc"})
    for number in range(3):
        t.until(lambda: os.path.exists(t.path(f"ready{number}")), 20, "the start of the program")
        t.dump(root, str(number), keep=True, options=["--track", "--no-sync", *(["--parent", t.image(str(number - 1))] if number else [])])
        if int(stats_of(t, str(number)).get("pages_unread", 0)):
            raise Failure("pages of the program that was executed are said not to have been written")
        expect_tracked(t, root, 1, f"after image {number}")
        if number < 2:
            harness.kill(root, signal.SIGUSR1)
    t.dump(root, "3", options=["--no-sync", "--parent", t.image("2")])
    for number, generation in enumerate("0122"):
        t.restore(root, str(number))
        harness.kill(root, signal.SIGUSR2)
        t.until(lambda: os.path.exists(t.path(f"looked{generation}")), 20, "the program does not answer")
        if harness.read(t.path(f"looked{generation}")) != "ok":
            raise Failure(f"the memory restored from image {number} is another one")
        os.unlink(t.path(f"looked{generation}"))
        harness.kill(root, signal.SIGKILL)
        t.until(lambda: not harness.stat_of(root), 10, "the end of the program")


ADVISED = """
import mmap, os, signal, time
memory = mmap.mmap(-1, 96 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes(range(1, 97)) * (1 << 20))
small = [mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(3)]
def look(*_):
    with open("new", "w") as f:
        f.write("ok" if memory[:] == bytes(range(1, 97)) * (1 << 20) else "not ok")
    os.rename("new", "looked")
signal.signal(signal.SIGUSR2, look)
open("ready", "w").close()
while True:
    for at, advice in enumerate((mmap.MADV_DONTFORK, mmap.MADV_DOFORK, mmap.MADV_DONTFORK, mmap.MADV_DOFORK)):
        small[at % 3].madvise(advice)
        time.sleep(0.001)
"""


def tracked_advised(t):
    """What the program says of its mappings changes all the time: an image that was written to its end is begun anew."""
    t.write("advised.py", ADVISED)
    root = t.start([harness.PYTHON, "-B", "advised.py"], environment={"PYTHONMALLOC": "malloc"})
    t.until(lambda: os.path.exists(t.path("ready")), 20, "the start of the program")
    attempts = images = 0
    while images < 3 or attempts == images:
        if images == 30:
            raise Failure("no attempt was in vain")
        t.dump(root, str(images), keep=True, options=["--track", *(["--parent", t.image(str(images - 1))] if images else [])])
        t.torpor("verify", t.image(str(images)))
        attempts += int(stats_of(t, str(images))["attempts"])
        images += 1
    t.dump(root, str(images), options=["--parent", t.image(str(images - 1))])
    for number in (0, images - 1, images):
        t.restore(root, str(number))
        harness.kill(root, signal.SIGUSR2)
        t.until(lambda: os.path.exists(t.path("looked")), 20, "the program does not answer")
        if harness.read(t.path("looked")) != "ok":
            raise Failure(f"the memory restored from image {number} is another one")
        os.unlink(t.path("looked"))
        harness.kill(root, signal.SIGKILL)
        t.until(lambda: not harness.stat_of(root), 10, "the end of the program")


def tracked_namespace(t):
    """What torpor run has started is tracked inside."""
    t.setup.work_in("userns")
    program = Program(t, "replaced")
    t.cycle(program.root)
    snapshot(t, program, "0", *TRACKING)
    program.verify("after the first image")
    snapshot(t, program, "1", *TRACKING, base="0", unread=True)
    program.verify("after the second image")
    snapshot(t, program, "2", "--no-sync", base="1", unread=True)
    restore_all(t, program, "012")


FAKE = """
import socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1].replace("@", "\\0")); s.listen()
open(sys.argv[2], "w").close()
while True:
    try: s.accept()[0].send(b"torptrk1")
    except BrokenPipeError: pass
"""


def tracked_faked(t):
    """Another user has the name of the tracker's socket: nobody listens to him, and there is no tracking."""
    if t.setup.account is None:
        raise harness.Skip("takes root, to be another user")
    program = Program(t, "replaced")
    name = f"@torpor-track/{os.stat(f'/proc/{program.root}/ns/pid').st_ino}/{program.root}"
    ready = os.path.join(t.logs, "faked")
    os.chmod(t.logs, 0o777)
    for user in ({"user": 65534, "group": 65534, "extra_groups": []}, t.setup.user_arguments()):
        fake = subprocess.Popen([harness.PYTHON, "-B", "-c", FAKE, name, ready], **user)
        t.until(lambda: os.path.exists(ready), 10, "the start of the other one")
        told = t.torpor("--verbose", "dump", program.root, "-o", t.image(), *TRACKING)
        if "somebody else has the name of the socket" not in told.err:
            raise Failure(f"it is not said that the name is taken: {told}")
        expect_tracked(t, program.root, 0, "while somebody else has the name")
        program.verify("after a dump that was not tracked")
        fake.kill()
        fake.wait()
        os.unlink(ready)
    program.end()


def parent_death(t):
    """The signal at the end of its parent is for a parent that the program knew, not for `restore --detach`."""
    program = Program(t, "parent_death")
    t.cycle(program.root)
    program.verify("after the restore")
    program.end()


def affinity_inherited(t):
    """Each thread may use the CPUs that it could use before, however few torpor may use."""
    program = Program(t, "threads")

    def allowed():
        task = harness.proc(f"{program.root}/task")
        return {thread: re.search(r"^Cpus_allowed:\t(.*)$", harness.read(f"{task}/{thread}/status"), re.M).group(1)
                for thread in harness.threads_of(program.root)}

    before, own = allowed(), os.sched_getaffinity(0)
    if len(own) > 1 and len(set(before.values())) < 3:  # all, and one or another
        raise Failure(f"there is nothing to see: {before}")
    for few in ({min(own)}, {max(own)}, own):
        t.dump(program.root)
        os.sched_setaffinity(0, few)
        try:
            t.restore(program.root)
        finally:
            os.sched_setaffinity(0, own)
        if allowed() != before:
            raise Failure(f"restored by a torpor that may use {few}: {sorted(set(allowed().items()) ^ set(before.items()))}")
    program.end()


def limits_noted(t):
    """A hard limit that cannot be raised again is told."""
    program = Program(t, "task")
    t.dump(program.root)
    result = t.restore(program.root)
    if "RLIMIT" in result.err:
        raise Failure(f"a limit is said to differ: {result}")
    program.kill()
    shell = 'ulimit -q 1500; exec "$0" restore "$1" --detach'
    t.wait_exit(t.start(["/bin/bash", "-c", shell, t.setup.binary, t.image()]))
    told = harness.read(os.path.join(t.logs, "stderr"))
    if "RLIMIT_MSGQUEUE stays at 1500; it was 2000" not in told:
        raise Failure(f"not told that a limit stays lower: {told!r}")


def declare():
    for program in PROGRAMS:
        selfcheck.declare(program)
    for program in TICKING:
        selfcheck.declare(program, [way for way in selfcheck.WAYS if way is not selfcheck.compared])
    selfcheck.declare("large", [way for way in selfcheck.WAYS if way is not selfcheck.rounds])
    for way in (selfcheck.alone, selfcheck.plain, selfcheck.twice, selfcheck.rounds):
        case(f"posix_ipc-{way.__name__}", way=way)(posix_ipc)
    for thing, (status, words) in REFUSED.items():
        case(f"refused-{thing}", thing=thing, status=status, words=words)(refused)
    for way in (selfcheck.alone, selfcheck.plain, selfcheck.twice, selfcheck.rounds):
        case(f"hugetlb-{way.__name__}", way=way)(huge_pages)
    for way in selfcheck.WAYS:
        case(f"hugetlb_shared-{way.__name__}", way=way, program="hugetlb_shared", pages=14)(huge_pages)
    case("sysv_shm-huge", way=sysv.huge_segment, pages=2)(huge_pages)
    case("hugetlb_shared-giant", way=giant_page, program="hugetlb_shared", size=1 << 20, pages=1)(huge_pages)
    for how in CRASHES:
        case(f"crash-{how}", how=how)(crash)
    case("memory-image-size")(image_size)
    case("memory-ahead")(memory_ahead)
    for kind, how in PACKED:
        case(f"packed-{kind}-{how}", kind=kind, how=how)(packed)
    for kind, how in (("memory", "none"), ("shared", "none"), ("large", "lz4")):
        case(f"chained-{kind}", kind=kind, how=how)(chained)
    case("chained-broken")(chained_broken)
    case("large-running")(large_running)
    for way in (selfcheck.alone, selfcheck.compared):
        case(f"prefork-{way.__name__}", kind="prefork")(way)
    case("prefork-shared")(prefork_shared)
    case("prefork-userns", tier="userns")(prefork_shared)
    case("prefork-fork", tier="fork", argument="small", limit=240)(prefork_shared)
    case("large-damaged")(large_damaged)
    case("unseen-running")(unseen_running)
    case("unseen-killed")(unseen_killed)
    case("parent-death")(parent_death)
    for pause in ("track", "clone", "copy"):
        case(f"moment-{pause}", pause=pause)(moment)
    for pause in ("auto", "track", "clone", "copy"):
        case(f"replaced-{pause}", pause=pause)(replaced)
        case(f"moment-tracked-{pause}", pause=pause)(moment_tracked)
    case("replaced-large", pause="auto", argument="large")(replaced)
    case("replaced-swapped", needs=["mkswap", "swapon"])(replaced_swapped)
    case("replaced-tree", pause="auto", argument="tree")(replaced)
    case("moment-chained-clone")(moment_chained)
    case("auto-clones")(auto_clones)
    for pause in ("track", "clone"):
        case(f"prefork-running-{pause}", pause=pause)(prefork_running)
    case("tracked-bases")(tracked_bases)
    case("tracked-lost")(tracked_lost)
    case("tracked-executes")(tracked_executes)
    case("tracked-advised")(tracked_advised)
    case("tracked-userns")(tracked_namespace)
    case("tracked-faked")(tracked_faked)
    case("threads-affinity")(affinity_inherited)
    case("task-limits-noted")(limits_noted)
    sysv.declare()


if __name__ == "__main__":
    declare()
    sys.exit(selfcheck.main(HERE, __doc__))
