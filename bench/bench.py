#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""torpor beside CRIU: the same program is put to sleep and woken up by both in turn, some rounds long.

torpor runs as the ordinary user who owns the program, with CAP_CHECKPOINT_RESTORE as a file capability; CRIU runs
as root. Where root lacks CAP_SYS_RESOURCE (in some containers and virtual machines), CRIU cannot save another user's
program, and all three run as root. Times are wall time from the start of the command to its end; the image is what
`stat` says of its files. Both write to the same file system. A dump waits for the disk, CRIU's does not; so there are
also figures with --no-sync. Printed are medians, the range in brackets, and torpor's share of CRIU's figure."""

import argparse
import mmap
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "..", "tests", "programs"))
import harness  # noqa: E402
import run as runner  # noqa: E402


class Refused(Exception):
    pass


def settle(pid, alive):
    """Wait until the PID is free, or in use by a task that runs."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not alive:
            reap()
        if bool(harness.stat_of(pid)) == alive:
            return
        time.sleep(0.001)
    raise Refused(f"task {pid} {'did not come back' if alive else 'is still there'}")


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class Tool:
    """A way to dump and to restore."""

    def __init__(self, folder):
        self.images = os.path.join(folder, self.name)
        self.figures = {"dump": [], "restore": [], "image": []}

    def timed(self, argv, what, **more):
        log = os.path.join(self.images, what + ".err")
        with open(log, "w") as err:
            began = time.perf_counter()
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=err, stderr=err, **more)
            # Not process.wait(120), which polls every 50 ms. The alarm only ends a hang.
            signal.signal(signal.SIGALRM, lambda *_: process.kill())
            signal.alarm(120)
            status = process.wait()
            took = time.perf_counter() - began
            signal.alarm(0)
        if status:
            raise Refused(f"{what}: {self.trouble(what)}")
        return took

    def trouble(self, what):
        lines = (harness.read(os.path.join(self.images, what + ".err"), "") or "").strip().splitlines()
        return lines[-1] if lines else "failed without a word"

    def size(self):
        return sum(os.stat(os.path.join(self.images, n)).st_size for n in os.listdir(self.images)
                   if not n.endswith((".err", ".log")))

    def cycle(self, pid):
        shutil.rmtree(self.images, ignore_errors=True)
        os.makedirs(self.images)
        self.own()
        dump = self.dump(pid)
        settle(pid, False)
        size = self.size()
        restore = self.restore()
        settle(pid, True)
        for key, value in (("dump", dump), ("restore", restore), ("image", size)):
            self.figures[key].append(value)

    def own(self):
        pass


class Torpor(Tool):
    name = "torpor"

    options = []

    def __init__(self, folder, setup):
        super().__init__(folder)
        self.setup, self.image = setup, os.path.join(self.images, "image.torpor")

    def own(self):
        self.setup.own(self.images)

    def call(self, what, *arguments):
        return self.timed([self.setup.binary, *arguments], what, env=self.setup.environment(),
                          cwd=self.images, **self.setup.user_arguments())

    def dump(self, pid):
        return self.call("dump", "dump", str(pid), "-o", self.image, *self.options)

    def restore(self):
        return self.call("restore", "restore", self.image, "--detach")


class TorporNoSync(Torpor):
    name = "torpor --no-sync"
    options = ["--no-sync"]


class Criu(Tool):
    name = "criu"

    def __init__(self, folder, binary):
        super().__init__(folder)
        self.binary = binary

    def dump(self, pid):
        return self.timed([self.binary, "dump", "-t", str(pid), "-D", self.images, "-o", "dump.log"], "dump")

    def restore(self):
        return self.timed([self.binary, "restore", "-d", "-D", self.images, "-o", "restore.log"], "restore")

    def trouble(self, what):
        lines = (harness.read(os.path.join(self.images, what + ".log"), "") or "").splitlines()
        errors = [l for l in lines if "Error" in l]
        return errors[-1].split(") ", 1)[-1] if errors else super().trouble(what)


def start(setup, folder, argv):
    work = os.path.join(folder, "work")
    os.makedirs(work)
    setup.own(work)
    with open(os.path.join(work, "out"), "w") as out:
        setup.own(out.name)
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=work,
                                   env=setup.environment(), start_new_session=True, **setup.user_arguments())
    process.returncode = 0  # reap() waits for it
    if argv[0] == "sleep":
        time.sleep(0.2)
        return process.pid
    end = time.monotonic() + 60
    while not os.path.exists(os.path.join(work, "ready")):
        if time.monotonic() > end:
            raise Refused(f"{argv} did not become ready")
        time.sleep(0.05)
    time.sleep(0.5)
    return process.pid


def end(pid):
    if harness.stat_of(pid):
        os.kill(pid, signal.SIGKILL)
        settle(pid, False)


def measure(setup, base, criu, argv, rounds):
    """Figures of all tools, and why one has none."""
    folder = tempfile.mkdtemp(dir=base)
    os.chmod(folder, 0o755)
    tools = [Torpor(folder, setup), TorporNoSync(folder, setup), Criu(folder, criu)]
    troubles = {}
    pid = None
    try:
        for _ in range(rounds):
            for tool in tools:
                if tool.name in troubles:
                    continue
                # A fresh program for each: CRIU brings its back in a time namespace, which torpor refuses.
                shutil.rmtree(os.path.join(folder, "work"), ignore_errors=True)
                pid = start(setup, folder, argv)
                try:
                    tool.cycle(pid)
                except (Refused, subprocess.TimeoutExpired) as e:
                    troubles[tool.name] = str(e)
                end(pid)
    finally:
        if pid:
            end(pid)
        shutil.rmtree(folder, ignore_errors=True)
    return tools, troubles


def median(tool, key):
    return statistics.median(tool.figures[key]) if tool.figures[key] else None


def cell(tool, key):
    values = tool.figures[key]
    if not values:
        return "–"
    if key == "image":
        return f"{median(tool, key) / 2**20:.1f} MiB"
    return f"{median(tool, key) * 1000:.1f} ms ({min(values) * 1000:.0f}–{max(values) * 1000:.0f})"


def rows(title, tools):
    """One line of the table for each way to dump; CRIU's figures are in each."""
    *ours, criu = tools
    for tool in ours:
        cells = [title, tool.name]
        for key in ("dump", "restore", "image"):
            a, b = median(tool, key), median(criu, key)
            cells += [cell(tool, key), cell(criu, key), f"{a / b:.2f}" if a and b else "–"]
        yield "| " + " | ".join(cells) + " |"


def per_gib(what, size, repeat=5):
    """Seconds per GiB of something that is done to `size` bytes: the best of some attempts."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        what()
        times.append(time.perf_counter() - began)
    return min(times) * 2**30 / size


def limits(base, size=256 << 20):
    """What one thread of this machine can do at best, in words."""
    name, data = os.path.join(base, "limits"), bytearray(os.urandom(1 << 20)) * (size >> 20)
    fd = os.open(name, os.O_RDWR | os.O_CREAT)

    def write(sync):
        os.ftruncate(fd, 0)
        for at in range(0, size, 1 << 20):
            os.pwrite(fd, memoryview(data)[at:at + (1 << 20)], at)
        if sync:
            os.fsync(fd)

    def load():
        with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
            os.preadv(fd, [fresh], 0)

    figures = [per_gib(lambda: write(False), size), per_gib(lambda: write(True), size), per_gib(load, size)]
    os.close(fd)
    os.unlink(name)
    return ("Of this machine, one thread takes per GiB: {:.2f} s to write a file into the page cache, {:.2f} s to write it to "
            "the disk (fsync), {:.2f} s to read it from the page cache into fresh memory.".format(*figures))


def bare_start(argv, **more):
    """What it costs to start the command at all."""
    times = []
    for _ in range(11):
        began = time.perf_counter()
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def root_may_all():
    """Whether root has CAP_SYS_RESOURCE, which CRIU needs for the programs of others."""
    effective = [l for l in harness.read("/proc/self/status").splitlines() if l.startswith("CapEff:")][0]
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def compile_java(base):
    if not shutil.which("javac"):
        return None
    subprocess.run(["javac", "-d", base, os.path.join(HERE, "Hold.java")], check=True)
    return ["java", "-Xms700m", "-Xmx700m", "-XX:+UseG1GC", "-XX:-UsePerfData", "-cp", base, "Hold", "512"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default=os.path.join(HERE, "..", "build", "torpor"))
    parser.add_argument("--criu", default=os.environ.get("CRIU") or shutil.which("criu") or "criu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="a word in the title of the programs to measure")
    parser.add_argument("--realtime", action="store_true",
                        help="run everything with real-time priority, where others use the CPUs as well")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("bench.py: CRIU needs root")

    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    harness.become_subreaper()
    setup = runner.make_setup(os.path.abspath(options.torpor))
    base = setup.folder
    who = "The programs and torpor run as an ordinary user, CRIU as root."
    if not root_may_all():
        setup.account = None
        who = "All run as root, because here CRIU cannot save another user's program."
    script = shutil.copy(os.path.join(HERE, "hold.py"), base)
    programs = [("sleep (1 MiB)", ["sleep", "100000"]),
                ("Python, 64 MiB", [harness.PYTHON, script, "64"]),
                ("Python, 1 GiB", [harness.PYTHON, script, "1024"]),
                ("JVM, 512 MiB live", compile_java(base))]
    notes = []
    try:
        version = subprocess.run([options.criu, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
        print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, CRIU {version.replace('Version: ', '')}, medians of "
              f"{options.rounds} interleaved rounds. Starting the command alone takes "
              f"{bare_start([setup.binary, '--version']) * 1000:.1f} ms (torpor), "
              f"{bare_start([options.criu, '--version']) * 1000:.1f} ms (CRIU); it is part of the times. {who} {limits(base)}\n")
        print("| program | with | dump: torpor | CRIU | ratio | restore: torpor | CRIU | ratio | image: torpor | CRIU | ratio |")
        print("| --- | --- |" + " --: |" * 9)
        for title, argv in programs:
            if not argv or (options.only and options.only not in title):
                continue
            tools, troubles = measure(setup, base, options.criu, argv, options.rounds)
            print(*rows(title, tools), sep="\n", flush=True)
            notes += [f"{title}: {name} gave up: {why}" for name, why in troubles.items()]
        for note in notes:
            print("\n" + note)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 1 if any("torpor gave up" in n for n in notes) else 0


if __name__ == "__main__":
    sys.exit(main())
