# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared, and what each command of theirs takes."""

import os
import shutil
import signal
import subprocess
import time

from programs import compile_c


DISTURBED_NS = 2_000_000_000  # so long the kernel waits before it gives free memory back (mm/page_reporting.c)


class Refused(Exception):
    pass


class Disturbed(Exception):
    """The kernel gave free memory back to the host meanwhile, which takes both of them time: what was measured says nothing."""


def state_of(pid):
    """The letter of /proc/PID/stat; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def settle(pid, alive):
    """Wait until the PID is free, or in use by a task that runs."""
    end = time.monotonic() + 20
    while bool(state_of(pid)) != alive:
        if time.monotonic() > end:
            raise Refused(f"task {pid} {'did not come back' if alive else 'is still there'}")
        time.sleep(0.001)


def descendants(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            children = [int(c) for c in f.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [d for c in children for d in descendants(c)]


def end(pid):
    """The program and all its children, so that every PID is free."""
    tree = [pid, *descendants(pid)]
    for one in tree:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for one in tree:
        settle(one, False)


def forget(folder):
    """Drop what the page cache has of the files there."""
    os.sync()
    for name in os.listdir(folder):
        fd = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


class Reserve:
    """Memory that is kept for the next command (reserve.c), so that the host of a virtual machine does not take it meanwhile."""

    def __init__(self, folder, mib):
        self.program, self.mib, self.holder = compile_c("reserve", folder), mib, None

    def __enter__(self):
        self.take()
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.communicate()

    def take(self):
        """Half of what is available at most."""
        with open("/proc/meminfo") as f:
            available = [int(line.split()[1]) for line in f if line.startswith("MemAvailable:")][0]
        mib = min(self.mib, available // 2048)
        self.holder = subprocess.Popen([self.program, str(mib)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def given(self):
        """The PID of who holds it. Whoever kills it has the memory; after that, it is to be taken again."""
        if not self.holder.stdout.readline():
            raise Refused(f"{self.mib} MiB of memory could not be kept for a command")
        return self.holder.pid

    def take_again(self):
        self.holder.communicate()
        self.take()


class Tool:
    """A way to dump and to restore, with what it takes from the reserve. figures: a list of values for each thing measured."""

    word = "bare"
    restores = True
    patience = 6  # so often it may be disturbed; after that, all counts
    notes = ["time", "peak"]

    def __init__(self, folder, reserve):
        self.measure, self.reserve = compile_c("measure", folder), reserve
        self.images = os.path.join(folder, self.word)
        os.makedirs(self.images)
        self.figures = {}

    def note(self, what, value):
        self.figures.setdefault(what, []).append(value)

    def run(self, argv, what, **how):
        """Run a command of the tool and note what it took."""
        wall, cpu, peak, back = self.measured(argv, what, **how)
        self.check(back, wall)
        if "time" in self.notes:
            self.note(what, wall / 1e9)
            self.note(what + " cpu", cpu / 1e9)
        if "peak" in self.notes:
            self.note(what + " peak", peak * 1024)

    def measured(self, argv, what, **how):
        """As measure.c tells it, but for the status. From a state where nothing waits for the disk."""
        log, took = os.path.join(self.images, what + ".err"), os.path.join(self.images, what + ".took")
        os.sync()
        with open(log, "w") as err:
            subprocess.run([self.measure, took, str(self.reserve.given()), "all" if "peak" in self.notes else "time", *argv],
                           stdin=subprocess.DEVNULL, stdout=err, stderr=err, check=False, **how)
        self.reserve.take_again()
        with open(took) as f:
            status, *figures = [int(v) for v in f.read().split()]
        if status:
            raise Refused(f"{what}: {self.trouble(what)}")
        return figures

    def check(self, back, wall):
        """What takes longer than the kernel waits with free memory is always disturbed, and counts as it is."""
        if back and wall < DISTURBED_NS and self.patience:
            self.patience -= 1
            raise Disturbed

    def trouble(self, what):
        with open(os.path.join(self.images, what + ".err"), errors="replace") as f:
            lines = f.read().strip().splitlines()
        return lines[-1] if lines else "failed without a word"

    def size(self):
        return sum(os.stat(os.path.join(self.images, n)).st_size for n in os.listdir(self.images)
                   if not n.endswith((".err", ".log", ".took")))

    def cycle(self, pid):
        """Dump; restore with the image in the page cache, and once more without."""
        shutil.rmtree(self.images, ignore_errors=True)
        os.makedirs(self.images)
        self.own()
        self.dump(pid)
        settle(pid, False)
        self.note("image", self.size())
        if not self.restores:
            return
        self.restore_again(pid, "warm")
        end(pid)
        self.restore_again(pid, "cold")

    def restore_again(self, pid, what):
        """Until it was not disturbed."""
        done = False
        while not done:
            if what == "cold":
                forget(self.images)
            try:
                self.restore(what)
                done = True
            except Disturbed:
                pass
            settle(pid, True)
            if not done:
                end(pid)

    def own(self):
        pass


class Floor(Tool):
    """What this machine takes to copy the memory of a program into a file, or back, and for nothing else.

    How fast memory is to be had depends on what was done before with it, most of all in a virtual machine. So what is
    loaded `first` follows a program's end, as a restore does that it is compared with."""

    def __init__(self, folder, reserve, first):
        super().__init__(folder, reserve)
        self.loads = ["small", "huge"] if first == "small" else ["huge", "small"]

    def took(self, pid, way, name):
        """In seconds, as floor.c tells it: without its start and its end. Until it was not disturbed; a program ends only once."""
        while True:
            if name in ("disk", "cache"):
                shutil.rmtree(self.images)
                os.makedirs(self.images)
            if name == "cold":
                forget(self.images)
            wall, _, _, back = self.measured([compile_c("floor", os.path.dirname(self.images)), str(pid),
                                              os.path.join(self.images, "memory"), way], name)
            try:
                self.check(back if way != "end" else 0, wall)
            except Disturbed:
                continue
            with open(os.path.join(self.images, name + ".err")) as f:
                return int(f.read().split()[1]) / 1e9

    def cycle(self, pid):
        """A dump ends the program: so that is part of the time of a copy."""
        os.kill(pid, signal.SIGSTOP)
        took = {way: self.took(pid, way, way) for way in ("disk", "cache")}
        ended = self.took(pid, "end", "end")
        for way in took:
            self.note(way, took[way] + ended)
        for way in self.loads:
            self.note(way, self.took(pid, way, way))
        self.note("cold", self.took(pid, "small", "cold"))


class Torpor(Tool):
    word = "torpor"
    options = []

    def __init__(self, folder, reserve, setup):
        super().__init__(folder, reserve)
        self.setup, self.image = setup, os.path.join(self.images, "image.torpor")

    def own(self):
        self.setup.own(self.images)

    def call(self, what, *arguments):
        self.run([self.setup.binary, *arguments], what, env=self.setup.environment(), cwd=self.images,
                 **self.setup.user_arguments())

    def dump(self, pid):
        self.call("dump", "dump", str(pid), "-o", self.image, *self.options)

    def restore(self, what):
        self.call(what, "restore", self.image, "--detach")


class TorporNoSync(Torpor):
    """The images are the same, so it only dumps."""

    word = "no-sync"
    options = ["--no-sync"]
    restores = False


class Criu(Tool):
    word = "criu"

    def __init__(self, folder, reserve, binary):
        super().__init__(folder, reserve)
        self.binary = binary

    def dump(self, pid):
        self.run([self.binary, "dump", "-t", str(pid), "-D", self.images, "-o", "dump.log"], "dump")

    def restore(self, what):
        self.run([self.binary, "restore", "-d", "-D", self.images, "-o", what + ".log"], what)

    def trouble(self, what):
        path = os.path.join(self.images, what + ".log")
        if os.path.exists(path):
            with open(path, errors="replace") as f:
                errors = [line.strip() for line in f if "Error" in line]
            if errors:
                return errors[-1].split(") ", 1)[-1]
        return super().trouble(what)
