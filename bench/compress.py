#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How much smaller images become when they are packed, and what it costs. Prints a Markdown table.

    scripts/bench compress [--mib N] [--rounds N] [--torpor FILE]

Each program is dumped and restored with each codec in turn, without waiting for the disk; medians.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
import tools  # noqa: E402

CODECS = ("none", "auto", "lz4", "zstd", "zstd:3", "zstd:9")
PYTHON = """
import sys, time
held = [{"id": i, "name": "user-%x" % (i * 2654435761 % 2**32), "score": i * 7919 % 10007} for i in range(int(sys.argv[1]) * 2600)]
open("ready", "w").close()
while True:
    time.sleep(1)
"""


def reap(pid):
    """The first time, the program is a child of ours."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def timed(*argv):
    began = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def cycle(torpor, pid, image, codec):
    """Seconds for the dump and the restore, and bytes."""
    dump = timed(torpor, "--quiet", "dump", str(pid), "-o", image, "--no-sync", "--compress=" + codec)
    reap(pid)
    tools.settle(pid, False)
    restore = timed(torpor, "restore", image, "--detach")
    size = os.path.getsize(image)
    os.unlink(image)
    return dump, restore, size


def measure(torpor, program, folder, rounds):
    pid = program.start(folder)
    found = {codec: [] for codec in CODECS}
    try:
        for _ in range(rounds):
            for codec in CODECS:
                found[codec].append(cycle(torpor, pid, os.path.join(folder, "image.torpor"), codec))
    finally:
        os.kill(pid, 9)
        reap(pid)
    raw = statistics.median(f[2] for f in found["none"])
    for codec in CODECS:
        dump, restore, size = (statistics.median(f[i] for f in found[codec]) for i in range(3))
        print(f"| {program.title} | {codec} | {size / 2**20:.1f} MiB | {100 * size / raw:.0f} % | {1000 * dump:.0f} ms | "
              f"{1000 * restore:.0f} ms |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torpor", default="build-release/torpor")
    o = parser.parse_args()
    torpor = os.path.abspath(o.torpor)
    print("| program | --compress | image | of none | dump (--no-sync) | restore |\n| --- | --- | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        python = programs.Program("python", "Python, objects", o.mib, [sys.executable, "-c", PYTHON, str(o.mib)])
        redis = programs.Redis("redis", f"Redis, {o.mib} MiB", o.mib)
        known = [p for p in programs.all_programs(folder) if p.word == "jvm"]
        for program in [*known, redis, python]:
            if program.lacks():
                print(f"{program.title}: there is no {program.lacks()[0]}", file=sys.stderr)
                continue
            work = os.path.join(folder, program.word)
            os.mkdir(work)
            measure(torpor, program, work, o.rounds)
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
