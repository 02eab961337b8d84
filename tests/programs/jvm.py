# SPDX-License-Identifier: Apache-2.0
"""The JVM with three collectors and two sizes of live data, the collector and the JIT at work."""

import glob
import os
import subprocess

from harness import Failure, case, counting, made_once

LABELS = ["churn0", "churn1", "hot", "talk", "tick"]


def compile_once(t):
    def make(fresh):
        done = subprocess.run(["javac", "-d", fresh, t.target("Live.java")], capture_output=True, text=True)
        if done.returncode:
            raise Failure("javac: " + done.stderr)
    return made_once(os.path.join(t.setup.folder, "classes"), make)


def jvm(t, collector, live):
    classes = compile_once(t)
    heap = live * 2 + 128
    argv = ["java", f"-XX:+Use{collector}", f"-Xms{heap // 2}m", f"-Xmx{heap}m", "-cp", classes, "Live", str(live)]
    # The JVM shares this file with tools that watch it, and removes it when it ends.
    counting(t, argv, LABELS, extra=lambda root: glob.glob(f"/tmp/hsperfdata_*/{root}"))


for _collector, _name in (("G1GC", "g1"), ("ParallelGC", "parallel"), ("ZGC", "zgc")):
    for _live in (64, 512):
        case(f"jvm-{_name}-{_live}", needs=["java", "javac"], limit=240, collector=_collector, live=_live)(jvm)
