# SPDX-License-Identifier: Apache-2.0
"""The JVM with three collectors and two sizes of live data, the collector and the JIT at work."""

import glob

from harness import LIVE, case, compile_live, counting


def jvm(t, collector, live):
    classes = compile_live(t)
    heap = live * 2 + 128
    argv = ["java", f"-XX:+Use{collector}", f"-Xms{heap // 2}m", f"-Xmx{heap}m", "-cp", classes, "Live", str(live)]
    # The JVM shares this file with tools that watch it, and removes it when it ends.
    counting(t, argv, LIVE, extra=lambda root: glob.glob(f"/tmp/hsperfdata_*/{root}"))


for _collector, _name in (("G1GC", "g1"), ("ParallelGC", "parallel"), ("ZGC", "zgc")):
    for _live in (64, 512):
        case(f"jvm-{_name}-{_live}", needs=["java", "javac"], limit=240, collector=_collector, live=_live)(jvm)
