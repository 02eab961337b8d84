#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A server that forks: one process with memory, and children that share all of it since fork(2).

    family.py [--torpor FILE] [--criu FILE] [--mib N] [--children N] [--rounds N]

torpor and CRIU save and restore it in turn, as in bench.py. Printed are the medians of what a dump and a restore take,
the size of the image, and the memory of the whole tree before and after: the sum of what each process has of a page
that several share (Pss)."""

import argparse
import os
import shutil
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tests", "programs")]
import bench as harness_of_all  # noqa: E402
import programs  # noqa: E402
import tools  # noqa: E402

MIB = 1 << 20


def pss(root):
    """Bytes of memory that a tree takes."""
    total = 0
    for pid in [root, *tools.descendants(root)]:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            total += sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total << 10


def measure(bench, tool, program, folder):
    tool.patience = 0  # the memory of what is restored counts, not the time
    pid = bench.start(program, folder)
    tool.note("before", pss(pid))
    shutil.rmtree(tool.images, ignore_errors=True)
    os.makedirs(tool.images)
    tool.own()
    tool.dump(pid)
    tools.settle(pid, False)
    tool.note("image", tool.size())
    if tool.restores:
        tool.restore("warm")
        tools.settle(pid, True)
        tool.note("after", pss(pid))
    tools.end(pid)


def row(tool):
    def of(what, unit, form):
        values = tool.figures.get(what)
        return form.format(statistics.median(values) / unit) if values else ""

    return "| " + " | ".join([tool.word, of("dump", 1, "{:.2f} s"), of("warm", 1, "{:.2f} s"), of("image", MIB, "{:.0f} MiB"),
                              of("before", MIB, "{:.0f} MiB"), of("after", MIB, "{:.0f} MiB"),
                              of("dump peak", MIB, "{:.0f} MiB")]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default=os.path.join(HERE, "..", "build", "torpor"))
    parser.add_argument("--criu", default=os.environ.get("CRIU") or shutil.which("criu"))
    parser.add_argument("--mib", type=int, default=500)
    parser.add_argument("--children", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bench = harness_of_all.Bench(options.torpor, options.criu)
    try:
        folder = bench.folder()
        program = programs.Program("family", "", options.mib, [programs.compile_c("hold", bench.base), f"mib={options.mib}",
                                                               f"forks={options.children}"])
        room = options.mib * (options.children + 1) if options.criu else options.mib
        with tools.Reserve(folder, room + harness_of_all.ROOM) as reserve:
            contest = [tools.Torpor(folder, reserve, bench.setup), tools.TorporNoSync(folder, reserve, bench.setup)]
            if options.criu:
                contest.append(tools.Criu(folder, reserve, options.criu))
            for tool in contest * options.rounds:
                measure(bench, tool, program, folder)
                print(row(tool), file=sys.stderr)
        print(f"{options.mib} MiB, shared by {options.children + 1} processes; medians of {options.rounds} rounds\n")
        print("| | dump | restore | image | memory before | after | largest resident set of the dump |")
        print("| --- | --: | --: | --: | --: | --: | --: |")
        print("\n".join(map(row, contest)))
    finally:
        bench.close()


if __name__ == "__main__":
    main()
