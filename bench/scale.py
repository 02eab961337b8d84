#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How the time of a dump and of a restore grows with the number of mappings, threads, tasks and fds.

For each of them, a program with ever more is put to sleep and woken up. Time per piece is what the whole takes beyond
a program that has none of it, divided by their number: flat is as it should be. Prints a Markdown table, and
draws the picture (--svg FILE).

    scale.py [--only WORD] [--most N] [--rounds N] [--svg FILE] [--realtime]"""

import argparse
import os
import resource
import shutil
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "tests", "programs")]
import bench  # noqa: E402
import programs  # noqa: E402
import table  # noqa: E402
import tools  # noqa: E402

COUNTS = [1, 10, 100, 1000, 10000, 100000]
# How many of each at most. Mappings are of one page each.
KINDS = {"mappings": 20000, "threads": 10000, "tasks": 1000, "fds": 100000}


def counts_of(kind, most):
    limit = min(KINDS[kind], most)
    if kind == "fds":  # a restore holds each of them up to three times at once
        limit = min(limit, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 300) // 3)
    return [c for c in COUNTS if c < limit] + [limit]


def arguments(kind, count):
    if kind == "mappings":
        return [f"mib={max(1, count * 4096 // 2**20 + 1)}", f"mappings={count}"]
    return [f"{kind}={count}"] if count else []


def measure(site, kind, count, rounds):
    """(dump, restore, memory of the dump): seconds and bytes, medians. What fails is a text instead."""
    folder = site.folder()
    hold = os.path.join(site.base, "hold")
    program = programs.Program(kind, kind, 16, [hold, *arguments(kind, count)], settle=0.1)
    try:
        with tools.Reserve(folder, 16 + bench.ROOM) as reserve:
            tool = tools.TorporNoSync(folder, reserve, site.setup)
            tool.restores = True
            for _ in range(rounds):
                bench.measure_tool(site, program, folder, tool)
    except tools.Refused as e:
        return str(e)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(statistics.median(tool.figures[f]) for f in ("dump", "warm", "dump peak"))


def measure_kind(site, kind, options):
    """[(count, dump, restore, memory, dump per piece, restore per piece)]"""
    base = measure(site, kind, 0, options.rounds)
    if isinstance(base, str):
        raise tools.Refused(base)
    rows = []
    for count in counts_of(kind, options.most):
        print(f"{count} {kind} ...", file=sys.stderr)
        took = measure(site, kind, count, options.rounds)
        if isinstance(took, str):
            print(f"{count} {kind}: {took}", file=sys.stderr)
            break
        each = [max(took[i] - base[i], 0) / count for i in (0, 1)]
        rows.append((count, *took, *each))
    return rows


def print_rows(results):
    rows = []
    for kind, measured in results.items():
        for count, dump, restore, memory, dump_each, restore_each in measured:
            rows.append([f"{count:,} {kind}", table.milliseconds(dump), table.milliseconds(restore),
                         f"{dump_each * 1e6:.1f}", f"{restore_each * 1e6:.1f}", f"{memory / table.MIB:.1f}"])
    table.print_table(["", "dump, ms", "restore, ms", "dump, µs each", "restore, µs each", "memory of the dump, MiB"], rows)


# ---- the picture ----

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 360, 260, 46, 30, 34
COLOURS = {"dump": "#2a6f97", "restore": "#c8553d"}
DECADES = 5  # of counts to the right: 1 to 100,000
LOW, HIGH = -7, -1  # powers of ten of seconds, upwards


def place(count, seconds):
    from math import log10
    x = LEFT + log10(count) / DECADES * (WIDTH - LEFT - 14)
    y = TOP + (HIGH - log10(max(seconds, 10.0**LOW))) / (HIGH - LOW) * (HEIGHT - TOP - BOTTOM)
    return x, y


def panel(kind, measured):
    """One kind: time per piece over the number of pieces, both logarithmic."""
    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{kind}: time for each</text>']
    for power, label in zip(range(LOW, HIGH + 1), ("0.1 µs", "1 µs", "10 µs", "0.1 ms", "1 ms", "10 ms", "0.1 s")):
        _, y = place(1, 10.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 14}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 5}" y="{y + 3:.1f}" text-anchor="end">{label}</text>')
    for decade in range(DECADES + 1):
        x, _ = place(10**decade, 1)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{10**decade:,}</text>')
    for name, column in (("dump", 4), ("restore", 5)):
        points = [place(row[0], row[column]) for row in measured]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[name]}"/>' for x, y in points]
    return "\n".join(parts)


def draw(results, path):
    columns = min(2, len(results))
    rows = (len(results) + columns - 1) // columns
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * WIDTH}" height="{rows * HEIGHT + 24}" '
             'font-family="sans-serif" font-size="10">', '<rect width="100%" height="100%" fill="white"/>']
    for i, (kind, measured) in enumerate(results.items()):
        parts.append(f'<g transform="translate({i % columns * WIDTH},{i // columns * HEIGHT})">{panel(kind, measured)}</g>')
    for i, (name, colour) in enumerate(COLOURS.items()):
        parts.append(f'<text x="{LEFT + i * 60}" y="{rows * HEIGHT + 12}" fill="{colour}">{name}</text>')
    with open(path, "w") as f:
        f.write("\n".join(parts + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torpor", default=os.path.join(HERE, "..", "build", "torpor"))
    parser.add_argument("--only", action="append", choices=list(KINDS), help="only this kind")
    parser.add_argument("--most", type=int, default=max(KINDS.values()), metavar="N", help="no more than that of any kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--svg", metavar="FILE", help="draw the picture there")
    parser.add_argument("--realtime", action="store_true",
                        help="run everything with real-time priority, where others use the CPUs as well")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("scale.py: run it as root")
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    site = bench.Bench(options.torpor, shutil.which("true"))
    try:
        results = {kind: measure_kind(site, kind, options) for kind in options.only or KINDS}
    finally:
        site.close()
    print_rows(results)
    if options.svg:
        draw(results, options.svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
