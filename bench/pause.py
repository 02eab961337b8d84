#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a program notices of a dump that lets it run on, with torpor in each of its ways and with CRIU (--leave-running).

    scripts/bench pause [--only WORD]... [--rounds N] [--torpor FILE] [--criu FILE]

The gap is the longest that a thread of the program saw which does nothing but read the clock (busy.c; the program writes to one
page in a hundred in every 100 ms), beside the longest that it saw in the same time without a dump. The work is what the program
did during the dump (pages written, requests answered, objects replaced), in per cent of what it did in the second before.
One program for all tools, which take turns. Medians with the range in brackets. Nobody waits for the disk."""

import argparse
import mmap
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
import table  # noqa: E402
import tools  # noqa: E402

WAYS = ["track", "clone", "copy"]
SECOND = 1.0


class State:
    """What busy.c and Work.java say of themselves."""

    def __init__(self, path):
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 4096)

    def begin(self):
        struct.pack_into("<Q", self.map, 0, 0)

    def gap(self):
        return struct.unpack_from("<Q", self.map, 0)[0] / 1e9

    def steps(self):
        return struct.unpack_from("<Q", self.map, 8)[0]


class Busy(programs.Program):
    has_gap, torpor_options, criu_options = True, [], []

    def start(self, work, **how):
        pid = super().start(work, **how)
        self.state = State(os.path.join(work, "state"))
        return pid

    def begin(self):
        self.state.begin()

    def gap(self):
        return self.state.gap()

    def steps(self):
        return self.state.steps()

    def end(self):
        pass


class Jvm(Busy):
    has_gap = False


class Redis(programs.Redis):
    """Under the load of redis-benchmark."""

    has_gap, torpor_options, criu_options = False, ["--tcp", "close"], ["--tcp-established"]

    def start(self, work, **how):
        pid = super().start(work, **how)
        self.load = subprocess.Popen(["redis-benchmark", "-p", str(self.port), "-t", "set", "-d", "2000", "-r", "100000", "-c", "4",
                                      "-l", "-q"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.control = socket.create_connection(("127.0.0.1", self.port))
        time.sleep(SECOND)
        return pid

    def begin(self):
        pass

    def steps(self):
        self.control.sendall(b"INFO stats\r\n")
        text = b""
        while b"total_commands_processed:" not in text or not text.endswith(b"\r\n"):
            text += self.control.recv(65536)
        return int(re.search(rb"total_commands_processed:(\d+)", text)[1])

    def end(self):
        self.load.kill()
        self.load.wait()
        self.control.close()


def all_programs(folder):
    busy = programs.compile_c("busy", folder)
    if shutil.which("javac"):
        subprocess.run(["javac", "-d", folder, os.path.join(programs.HERE, "Work.java")], check=True)
    java = ["java", "-Xms900m", "-Xmx900m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-cp", folder, "Work", "512"]
    return [Busy("1gib", "1 GiB", 1024, [busy, "1024"], settle=SECOND), Busy("4gib", "4 GiB", 4096, [busy, "4096"], settle=SECOND),
            Redis("redis", "Redis, 1 GiB", 1024), Jvm("jvm", "JVM, 512 MiB live", 600, java, ["java", "javac"], settle=3)]


def commands(program, pid, folder, torpor, criu):
    for way in WAYS:
        yield way, [torpor, "dump", str(pid), "--keep-running", "--no-sync", "--pause", way, "-o", os.path.join(folder, "image"),
                    *program.torpor_options]
    if criu:
        yield "criu", [criu, "dump", "-t", str(pid), "--leave-running", "-D", folder, "-o", "log", *program.criu_options]


def measure(program, argv, figures):
    """One dump."""
    program.begin()
    before, began = program.steps(), time.monotonic()
    time.sleep(SECOND)
    usual, idle = (program.steps() - before) / (time.monotonic() - began), program.has_gap and program.gap()
    program.begin()
    before, began = program.steps(), time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise tools.Refused((done.stderr.strip().splitlines() or ["failed without a word"])[-1])
    figures.setdefault("work", []).append((program.steps() - before) / seconds / usual)
    figures.setdefault("seconds", []).append(seconds)
    if program.has_gap:
        time.sleep(0.01)
        figures.setdefault("gap", []).append(program.gap())
        figures.setdefault("idle", []).append(idle)


def measure_program(program, options, base):
    found, troubles = {}, {}
    work = tempfile.mkdtemp(dir=base)
    pid = program.start(work)
    try:
        for _ in range(options.rounds):
            for word, argv in commands(program, pid, os.path.join(base, "images"), os.path.abspath(options.torpor), options.criu):
                if word in troubles:
                    continue
                os.makedirs(os.path.join(base, "images"))
                try:
                    measure(program, argv, found.setdefault(word, {}))
                except tools.Refused as e:
                    troubles[word] = f"{program.title}: {word} gave up: {e}"
                shutil.rmtree(os.path.join(base, "images"))
    finally:
        program.end()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found, troubles.values()


def spread(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))}–{form(max(values))})" if values else "–"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default="build-release/torpor")
    parser.add_argument("--criu", default=os.environ.get("CRIU") or shutil.which("criu"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="WORD", help="only programs with this name")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the program that is measured would go on
    rows, said = [], []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
        for program in all_programs(base):
            if (options.only and program.word not in options.only) or program.lacks():
                continue
            found, troubles = measure_program(program, options, base)
            said += troubles
            for word, figures in found.items():
                gaps = figures.get("gap", [])
                rows.append([program.title, word, spread(gaps, lambda v: f"{1000 * v:.1f}"),
                             spread(figures.get("idle", []), lambda v: f"{1000 * v:.1f}"),
                             spread(figures.get("work", []), lambda v: f"{100 * v:.0f}"),
                             spread(figures.get("seconds", []), lambda v: f"{1000 * v:.0f}")])
    table.print_table(["program", "way", "gap, ms", "without a dump", "work, %", "dump, ms"], rows)
    print("\n".join(said))


if __name__ == "__main__":
    main()
