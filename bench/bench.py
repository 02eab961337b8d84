#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""torpor beside CRIU: the same programs are put to sleep and woken up by both in turn, some rounds long.

torpor runs as the ordinary user who owns the program, with CAP_CHECKPOINT_RESTORE as a file capability; CRIU runs
as root. Where root lacks CAP_SYS_RESOURCE (in some containers and virtual machines), CRIU cannot save another user's
program, and all three run as root. Times are wall time from the start of the command to its end; the image is what
`stat` says of its files; memory is the largest resident set of the command; CPU time is that of the whole machine,
the kernel's own work included. Both write to the same file system. A dump waits for the disk, CRIU's does not; so there
are also figures with --no-sync. A restore is measured with the image in the page cache, and with the page cache
emptied of it. Printed are medians with the range in brackets.

    bench.py [--only WORD]... [--quick] [--rounds N] [--json FILE]      measure, and print the tables
    bench.py --check [...]                                              and say which targets are reached
    bench.py --check FILE...                                            say it of runs that --json wrote, of each and of all their rounds

programs.py has the programs, tools.py the commands, table.py the tables and the targets."""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tests", "programs")]
import harness  # noqa: E402
import programs  # noqa: E402
import run as runner  # noqa: E402
import table  # noqa: E402
import tools  # noqa: E402

QUICK = ["1mib", "tree", "1gib"]
HELPERS = ["measure", "floor", "reserve"]
ROOM = 2048  # MiB that a command may need beside the memory of the program
SMALL_ROOM = 64  # the same beside a small program: to free more of it takes the CPU's caches
LARGE_MIB = 512  # what is smaller needs no floor to be understood, and is measured so many times as often: it takes little time
SMALL_TIMES = 3


class Bench:
    """Where it is measured, and with what."""

    def __init__(self, torpor, criu):
        self.setup = runner.make_setup(os.path.abspath(torpor))
        self.base, self.criu = self.setup.folder, criu
        self.alike = not root_may_all()
        if self.alike:
            self.setup.account = None
        self.programs = programs.all_programs(self.base)
        for helper in HELPERS:
            programs.compile_c(helper, self.base)
        harness.become_subreaper()
        # Whoever ends is reaped by the kernel at once, as by a shell that waits for it. So no exit status is to be had of
        # what is started here: `measure` tells it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def close(self):
        shutil.rmtree(self.base, ignore_errors=True)

    def folder(self):
        folder = tempfile.mkdtemp(dir=self.base)
        os.chmod(folder, 0o755)
        for helper in HELPERS:
            os.link(os.path.join(self.base, helper), os.path.join(folder, helper))
        return folder

    def start(self, program, folder):
        work = os.path.join(folder, "work")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        self.setup.own(work)
        return program.start(work, env=self.setup.environment(), **self.setup.user_arguments())

    def machine(self, rounds):
        version = subprocess.run([self.criu, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
        own = subprocess.run([self.setup.binary, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
        who = ("All ran as root, because root lacks CAP_SYS_RESOURCE here and CRIU needs it for another user's program."
               if self.alike else "The programs and torpor ran as an ordinary user, CRIU as root.")
        return (f"{datetime.date.today():%-d %B %Y}, {cpu_model()}, {os.cpu_count()} CPUs, {memory_gib():.0f} GiB, "
                f"{file_system(self.base)}, Linux {platform.release()}; {own}, CRIU {version.replace('Version: ', '')}; "
                f"{rounds} rounds. To start the command alone takes "
                f"{bare_start([self.setup.binary, '--version']) * 1000:.1f} ms (torpor) and "
                f"{bare_start([self.criu, '--version']) * 1000:.1f} ms (CRIU); it is part of the times. {who}")


# ---- the machine, in words ----

def cpu_model():
    names = [line.split(":")[1].strip() for line in harness.read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def file_system(path):
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=False).stdout.strip()


def root_may_all():
    """Whether root has CAP_SYS_RESOURCE, which CRIU needs for the programs of others."""
    effective = [line for line in harness.read("/proc/self/status").splitlines() if line.startswith("CapEff:")][0]
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def bare_start(argv):
    """What it costs to start the command at all."""
    with tempfile.TemporaryDirectory() as folder:
        measure, took, times = programs.compile_c("measure", folder), os.path.join(folder, "took"), []
        for _ in range(11):
            subprocess.run([measure, took, "0", "time", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            times.append(int(harness.read(took).split()[1]) / 1e9)
    return statistics.median(times)


# ---- measuring ----

def measure_tool(bench, program, folder, tool):
    """Once, and again as long as it is disturbed. May raise Refused."""
    measured = False
    while not measured:
        pid = bench.start(program, folder)
        try:
            tool.cycle(pid)
            measured = True
        except tools.Disturbed:
            pass
        finally:
            tools.end(pid)


def measure_program(bench, program, rounds):
    """All tools in turn. A fresh program for each: CRIU brings its back in a time namespace, which torpor refuses."""
    folder = bench.folder()
    troubles = {}
    small = program.mib < LARGE_MIB
    rounds *= SMALL_TIMES if small else 1
    try:
        with tools.Reserve(folder, program.mib + (SMALL_ROOM if small else ROOM)) as reserve:
            contest = [tools.Torpor(folder, reserve, bench.setup), tools.TorporNoSync(folder, reserve, bench.setup),
                       tools.Criu(folder, reserve, bench.criu)]
            floor = tools.Floor(folder, reserve, table.restore_floor(program.word))
            for number in range(rounds + small):
                for tool in contest if small else [floor, *contest]:
                    if small:  # to see how much memory it takes would be a good part of its time
                        tool.notes = ["time"] if number else ["peak"]
                    if tool.word not in troubles:
                        try:
                            measure_tool(bench, program, folder, tool)
                        except tools.Refused as e:
                            troubles[tool.word] = f"{program.title}: {tool.word} gave up: {e}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"title": program.title, "tools": {t.word: t.figures for t in contest}, "floor": floor.figures,
            "rounds": rounds}, list(troubles.values())


def measure_all(bench, options):
    result = {"machine": bench.machine(options.rounds), "programs": {}, "troubles": []}
    for program in bench.programs:
        if options.only and not any(w == program.word or w in program.title for w in options.only):
            continue
        if options.quick and program.word not in QUICK:
            continue
        if program.lacks():
            result["troubles"].append(f"{program.title}: not measured, it needs {', '.join(program.lacks())}")
            continue
        print(program.title + " ...", file=sys.stderr)
        try:
            result["programs"][program.word], troubles = measure_program(bench, program, options.rounds)
        except KeyboardInterrupt:
            result["troubles"].append(f"{program.title}: interrupted; what follows was not measured either")
            break
        result["troubles"] += troubles
        write_run(result, options.json)
    return result


def write_run(result, path):
    """After each program: a run takes long, and may be ended early."""
    if path:
        with open(path, "w") as f:
            json.dump(result, f)


def read_runs(paths):
    runs = []
    for path in paths:
        with open(path) as f:
            runs.append(json.load(f))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default=os.path.join(HERE, "..", "build", "torpor"))
    parser.add_argument("--criu", default=os.environ.get("CRIU") or shutil.which("criu") or "criu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only some programs, two rounds")
    parser.add_argument("--only", action="append", metavar="WORD", help="only programs with this name, or whose title has it")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--check", nargs="*", metavar="FILE", help="which targets are reached, in these runs or in a new one")
    parser.add_argument("--realtime", action="store_true",
                        help="run everything with real-time priority, where others use the CPUs as well")
    options = parser.parse_args()
    if options.check:
        return 1 if table.print_targets(read_runs(options.check)) else 0
    if os.geteuid():
        sys.exit("bench.py: CRIU needs root")
    if options.quick:
        options.rounds = min(options.rounds, 2)
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what has been measured is printed
    bench = Bench(options.torpor, options.criu)
    try:
        result = measure_all(bench, options)
    finally:
        bench.close()
    table.print_run(result)
    write_run(result, options.json)
    if options.check is not None and table.print_targets([result]):
        return 1
    return 1 if any("torpor gave up" in t for t in result["troubles"]) else 0


if __name__ == "__main__":
    sys.exit(main())
