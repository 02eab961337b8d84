#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An image is whole, or it is refused: flipped bits, cuts, swaps, splices.

    damage.py [--torpor FILE] [--list] [NAME...]

TORPOR_TEST_FLIPS=N flips N bits per image (1,000) and does a tenth as much of each of the rest. damage.c opens the
damaged images by the function that torpor verify uses; a sample goes through the commands.
"""

import os
import random
import re
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Large, PythonThreads, Steady, Watch, compile_steady, files, main, read_bytes  # noqa: E402
from harness import PYTHON, Failure, Skip, case, comm_of, read, stat_of, tree_of  # noqa: E402

FLIPS = int(os.environ.get("TORPOR_TEST_FLIPS", "1000"))
PAGE = 4096
SAMPLE = max(20, FLIPS // 50)
REFUSED = r"is damaged|not a torpor image|no valid end"


def two_images(t, start, options=()):
    """Two images of one program, some moments apart. Nothing of the program is left."""
    program = start(t)
    t.dump(program.root, "other", keep=True, options=options)
    program.check()
    t.dump(program.root, options=options)
    return program


def in_the_library(t, start, times=FLIPS, options=()):
    driver = os.path.join(t.setup.build, "tests/faults/damage")
    if not os.access(driver, os.X_OK):
        raise Skip(f"{driver} has not been built")
    two_images(t, start, options)
    seed = random.randrange(1 << 32)
    t.log(f"seed {seed}")
    done = subprocess.run([driver, str(seed), str(times), t.image(), t.image("other")], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"seed {seed}: {done.stdout}{done.stderr}")
    print(f"    {t.name}: {os.path.getsize(t.image())} bytes, {done.stdout.strip()}", flush=True)


case("damage-steady", limit=600)(lambda t: in_the_library(t, Steady))
case("damage-tree", limit=600)(lambda t: in_the_library(t, lambda t: Steady(t, 4)))
case("damage-packed", limit=600)(lambda t: in_the_library(t, Steady, options=["--compress=zstd"]))
case("damage-packed-lz4", limit=600)(lambda t: in_the_library(t, Steady, options=["--compress=lz4"]))
case("damage-python", limit=1200)(lambda t: in_the_library(t, PythonThreads))


class Quiet:
    """A program with next to nothing in memory: its image is small enough to damage every byte of it."""

    def __init__(self, t):
        self.root = t.start(["/bin/sleep", "1000"])
        t.until(lambda: comm_of(self.root) == "sleep", 5, "the start of sleep")

    def check(self):
        pass


@case("damage-every-byte", limit=600)
def every_byte(t):
    """One bit of each byte of a whole file, whatever it means."""
    if FLIPS < 10000:
        raise Skip("only with TORPOR_TEST_FLIPS=10000 or more")
    in_the_library(t, Quiet, times=0)


def damaged(content, other):
    """The content with one damage."""
    at = random.randrange(len(content))
    way = random.randrange(4)
    if way == 0:
        return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1:]
    if way == 1:
        return content[:at]
    if way == 2:
        return content[:at] + other[at:]
    return content + b"\0" * random.choice((1, 4096, 8192))


@case("damage-chained", limit=600)
def chained(t):
    """A child and its parent, each damaged while the other is whole."""
    program = Steady(t)
    t.dump(program.root, "parent", keep=True)
    program.check()
    t.dump(program.root, "child", options=["--parent", t.image("parent"), "--compress=zstd"])
    seed = random.randrange(1 << 32)
    t.log(f"seed {seed}")
    random.seed(seed)
    other = read_bytes(t.image("child"))
    for name in ("child", "parent"):
        content = read_bytes(t.image(name))
        for _ in range(SAMPLE):
            with open(t.image(name), "wb") as f:
                f.write(next(d for d in iter(lambda: damaged(content, other), None) if d != content))
            result = t.torpor("verify", t.image("child"), expect=None)
            # Of its parent, the child needs not all.
            if result.status != 4 and not (result.status == 0 and name == "parent"):
                raise Failure(f"{name} is damaged: {result}")
            if result.status == 0:
                t.torpor("verify", t.image("parent"), expect=4)
        with open(t.image(name), "wb") as f:
            f.write(content)
    t.torpor("verify", t.image("child"))
    t.restore(program.root, "child")
    program.check()


@case("damage-commands", limit=600)
def commands(t):
    """The same through the commands: exit status 4, and no process is left."""
    program = two_images(t, Steady)
    content, other = read_bytes(t.image()), read_bytes(t.image("other"))
    for _ in range(SAMPLE):
        with open(t.image("damaged"), "wb") as f:
            f.write(next(d for d in iter(lambda: damaged(content, other), None) if d not in (content, other)))
        t.setup.own(t.image("damaged"))
        for command in (["verify"], ["restore", "--detach"]):
            result = t.torpor(command[0], t.image("damaged"), *command[1:], expect=4)
            if not re.search(REFUSED, result.err) or stat_of(program.root) or tree_of(os.getpid())[1:]:
                raise Failure(f"{command} of a damaged image: {result}")
    os.unlink(t.image("damaged"))
    if sorted(files(t)) != ["image.torpor", "other.torpor"]:
        raise Failure(f"there are other files: {files(t)}")
    t.restore(program.root)
    program.check()


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def change_meanwhile(t, root, at):
    """
    A byte changes between the verification and the loading: torpor waits there for PIDs that zombies hold. It must
    be seen, and leave nothing; and the image with its byte back must be restored.
    """
    pids = tree_of(root)
    dump, _ = t.torpor_start(["dump", root, "-o", t.image()])
    os.waitpid(dump, 0)  # nobody but this one: the program stays zombies
    at = at(read_bytes(t.image()))
    restore, call = t.torpor_start(["restore", t.image(), "--detach"])
    time.sleep(0.5 * t.limit_factor())
    flip(t.image(), at)
    for pid in pids:
        os.waitpid(pid, 0)
    result = t.torpor_result(restore, call, ["restore"], time.monotonic())
    if result.status != 4 or "has changed since it was verified" not in result.err:
        raise Failure(f"restore of an image that was changed meanwhile: {result}")
    if stat_of(root) or tree_of(os.getpid())[1:]:
        raise Failure("something is left of the program")
    flip(t.image(), at)
    t.restore(root)


@case("damage-meanwhile", limit=60)
def meanwhile(t):
    program = Steady(t, 2)  # one that is alone would be verified only while it is loaded
    change_meanwhile(t, program.root, lambda content: 4096 + 77)  # in the first page that is stored
    program.check()


# 16 MiB in a memfd, and the same in shared memory, for several threads to load. Nothing of it is in the program's own memory.
CONTENT = """
import mmap, os, signal, subprocess
fd = os.memfd_create("content", 0)
subprocess.run(["head", "-c", str(16 << 20), "/dev/urandom"], stdout=fd, check=True)
shared = mmap.mmap(-1, 16 << 20)
os.preadv(fd, [shared], 0)
with open("ready", "w") as f:
    f.write(str(fd))
def compare(*_):
    same = all(os.pread(fd, 1 << 20, k << 20) == shared[k << 20:k + 1 << 20] for k in range(16))
    with open("compared", "w") as f:
        f.write(f"{same} {os.fstat(fd).st_size}\\n")
signal.signal(signal.SIGUSR1, compare)
while True:
    signal.pause()
"""


@case("damage-meanwhile-content", limit=60)
def meanwhile_content(t):
    """The same for the content of files and of shared memory, which is large enough for several threads."""
    root = t.start([PYTHON, "-B", "-c", CONTENT])
    t.until(lambda: read(t.path("ready"), ""), 20, "the start of the program")
    before = read_bytes(f"/proc/{root}/fd/{read(t.path('ready'))}")
    change_meanwhile(t, root, lambda content: content.index(before[5 << 20:(5 << 20) + 64]) + 7)
    if read_bytes(f"/proc/{root}/fd/{read(t.path('ready'))}") != before:
        raise Failure("the content of the memfd is not what it was")
    os.kill(root, signal.SIGUSR1)
    if t.until(lambda: read(t.path("compared"), ""), 10, "an answer of the program") != f"True {16 << 20}\n":
        raise Failure("the content of shared memory is not what it was")


def parts(content):
    """Where which part of an image lies; see doc/format.md."""
    trailer = len(content) - PAGE
    meta, extents, runs = (struct.unpack_from("<Q", content, trailer + at)[0] for at in (24, 48, 72))
    return {"header": (0, PAGE), "pages": (PAGE, meta), "metadata": (meta, extents), "extent table": (extents, runs),
            "run table": (runs, trailer), "trailer": (trailer, len(content))}


@case("damage-no-process", limit=600)
def no_process(t):
    """A restore that is refused has made no process, wherever the damage is: clone, fork and the like are watched."""
    program = Steady(t, 2)
    t.dump(program.root)
    content, watch, tried = read_bytes(t.image()), Watch(t), 0
    for part, (start, end) in parts(content).items():
        for number in range(max(3, FLIPS // 200)):
            at = random.randrange(start, end)
            with open(t.image("damaged"), "wb") as f:
                f.write(content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1:])
            t.setup.own(t.image("damaged"))
            how = ["--detach"] if number % 2 else []
            result, touched = watch.run("restore", t.image("damaged"), *how, expect=4)
            if touched["made"] or not re.search(REFUSED, result.err):
                raise Failure(f"a flipped bit at {at} of {len(content)}, in the {part}: {touched['made']}: {result}")
            tried += 1
    if not watch.run("restore", t.image(), "--detach")[1]["made"]:
        raise Failure("the making of processes is not seen")
    program.check()
    print(f"    {t.name}: {tried} flipped bits, none of the restores made a process", flush=True)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1:]


def refuse_large(t, program, watch, content):
    """Watched or not, as `verify` does, and nothing of the program is made: only what loads its memory, which has a PID by chance."""
    with open(t.image("damaged"), "wb") as f:
        f.write(content)
    t.setup.own(t.image("damaged"))
    words = t.torpor("verify", t.image("damaged"), expect=4).err.splitlines()[0].partition(t.image("damaged"))[2]
    result, touched = watch.run("restore", t.image("damaged"), "--detach", expect=4)
    chosen = {int(number) for number, _ in touched["made"] if number}
    if not re.search(REFUSED, result.err) or words not in result.err:
        raise Failure(f"not what verify says ({words}): {result}")
    if chosen - {1} or stat_of(program.root):  # 1: may PIDs be chosen?
        raise Failure(f"processes were made, or are left: {touched['made']}")
    t.until(lambda: not tree_of(os.getpid())[1:], 5, "processes are left, or what watches them")
    return sum(not number for number, _ in touched["made"])


def large(t, options=(), parent=False):
    """Memory that is verified only while it is loaded: the first damage in the file is told of, whichever thread sees one first."""
    program = Large(t)
    if parent:
        t.dump(program.root, "parent", keep=True)
        program.check()
        options = [*options, "--parent", t.image("parent")]
    t.dump(program.root, options=options)
    content, watch, loaders = read_bytes(t.image()), Watch(t), 0
    seed = random.randrange(1 << 32)
    t.log(f"seed {seed}")
    random.seed(seed)
    where = parts(content)
    tries = [*((part, 1) for part in where for _ in range(3)), *(("pages", n) for n in (1, 2, 3, 20) for _ in range(SAMPLE // 10))]
    for part, n in tries:
        damaged_ = content
        for _ in range(n):
            damaged_ = flipped(damaged_, random.randrange(*where[part]))
        made = refuse_large(t, program, watch, damaged_)
        loaders += made
        if part != "pages" and made:
            raise Failure(f"damage in the {part}, and a process was made")
    if not loaders:
        raise Failure("the memory was never loaded by a process of its own")
    result, touched = watch.run("restore", t.image(), "--detach")
    if program.root not in {int(number) for number, _ in touched["made"] if number}:
        raise Failure(f"the making of the program is not seen: {touched['made']}")
    program.check()
    print(f"    {t.name}: {len(tries)} damaged, all refused; {loaders} of them while the memory was loaded", flush=True)


case("damage-large", limit=600)(large)
case("damage-large-packed", limit=600, options=["--compress=zstd"])(large)
case("damage-large-child", limit=600, parent=True)(large)


@case("damage-large-parent", limit=600)
def large_parent(t):
    """The same for pages that stand in its parent."""
    program = Large(t)
    t.dump(program.root, "parent", keep=True)
    program.check()
    t.dump(program.root, options=["--parent", t.image("parent")])
    content = read_bytes(t.image("parent"))
    tried = {0: 0, 4: 0}
    for _ in range(SAMPLE):
        with open(t.image("parent"), "wb") as f:
            f.write(flipped(content, random.randrange(PAGE, parts(content)["pages"][1])))
        result = t.torpor("verify", t.image(), expect=None)
        tried[result.status] += 1
        if result.status:  # of its parent, the child needs not all
            t.torpor("restore", t.image(), "--detach", expect=4)
            if stat_of(program.root) or tree_of(os.getpid())[1:]:
                raise Failure("something is left of the program")
    with open(t.image("parent"), "wb") as f:
        f.write(content)
    if not tried[4]:
        raise Failure(f"nothing was refused: {tried}")
    t.restore(program.root)
    program.check()


@case("large-pid", limit=120)
def large_pid(t):
    """What loads the memory would get the PID of the program, its threads those of the program's: so another one does it."""
    if t.setup.account is None:
        raise Skip("only root may choose the next PID")
    program = Large(t)
    for before in range(3, 10):  # torpor, of two processes, comes first, and must have none of them
        t.dump(program.root)
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:
            f.write(str(program.root - before))
        t.torpor("restore", t.image(), "--detach")
        program.check()
        os.unlink(t.image())


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda setup: compile_steady(setup, "watch")))
