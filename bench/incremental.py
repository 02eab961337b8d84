#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ten snapshots of one Redis, each against the one before. Prints a Markdown table.

    scripts/bench incremental [--mib N] [--changed N] [--track] [--sync] [--torpor FILE]

Between two of them, so many of a thousand values are set anew. Redis runs on; nobody waits for the disk, unless --sync. With
--track, torpor keeps track of what it writes in between.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import programs  # noqa: E402
import tools  # noqa: E402

SNAPSHOTS = 10


def reap(pid):
    """The first time, the program is a child of ours."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def change(redis, per_mille, seed):
    """Set some of its values anew, spread over all of them."""
    count = redis.mib * 2**20 // 2064
    with socket.create_connection(("127.0.0.1", redis.port)) as s:
        for i in range(count * per_mille // 1000):
            key = (seed * 7919 + i * 104729) % count
            s.sendall(b"*3\r\n$3\r\nSET\r\n$12\r\nkey:%08d\r\n$2000\r\n%s\r\n" % (key, (b"%d-%d " % (seed, i) * 2000)[:2000]))
            if s.recv(5) != b"+OK\r\n":
                raise tools.Refused("redis does not take a value")


def snapshot(torpor, pid, folder, number, options):
    image = os.path.join(folder, f"{number}.torpor")
    parent = ["--parent", os.path.join(folder, f"{number - 1}.torpor")] if number else []
    began = time.monotonic()
    said = subprocess.run([torpor, "dump", str(pid), "--keep-running", "-o", image, *options, *parent], check=True,
                          capture_output=True, text=True).stdout
    return time.monotonic() - began, os.path.getsize(image), re.search(r"paused for ([\d.]+) ms", said)[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--changed", type=int, default=1, help="of a thousand values, between two snapshots")
    parser.add_argument("--track", action="store_true")
    parser.add_argument("--sync", action="store_true", help="wait for the disk")
    parser.add_argument("--torpor", default="build-release/torpor")
    o = parser.parse_args()
    torpor = os.path.abspath(o.torpor)
    options = ["--track"] * o.track + ["--no-sync"] * (not o.sync)
    redis = programs.Redis("redis", "Redis", o.mib)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        pid = redis.start(folder)
        try:
            found = []
            for number in range(SNAPSHOTS):
                if number:
                    change(redis, o.changed, number)
                found.append(snapshot(torpor, pid, folder, number, options))
        finally:
            os.kill(pid, 9)
            reap(pid)
        subprocess.run([torpor, "verify", os.path.join(folder, f"{SNAPSHOTS - 1}.torpor")], check=True, stdout=subprocess.DEVNULL)
    print("| snapshot | time | of the first | pause | image | of the first |\n| --: | --: | --: | --: | --: | --: |")
    for number, (seconds, size, pause) in enumerate(found):
        print(f"| {number + 1} | {1000 * seconds:.0f} ms | {100 * seconds / found[0][0]:.1f} % | {pause} ms | {size / 2**20:.1f} MiB | "
              f"{100 * size / found[0][1]:.1f} % |")


if __name__ == "__main__":
    main()
