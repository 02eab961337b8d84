# SPDX-License-Identifier: Apache-2.0
"""Progress as programs and scripts see it. What it looks like on a terminal: tests/unit/test_progress.c."""

import json
import os

from harness import PYTHON, Failure, case, read


@case("progress")
def progress(t):
    root = t.start([PYTHON, "-c", "import os, time; block = os.urandom(8 << 20); print('ready', flush=True); time.sleep(1000)"])
    t.until(lambda: "ready" in read(f"{t.logs}/stdout", ""), 10, "its memory")
    result = t.torpor("dump", root, "-o", t.image(), "--progress=json")
    steps = [json.loads(line) for line in result.err.splitlines()]
    if not steps or steps[-1]["done"] != steps[-1]["total"] or steps[-1]["unit"] != "bytes":
        raise Failure(f"no end: {result.err!r}")
    if steps[-1]["total"] < 8 << 20 or any(a["done"] > b["done"] for a, b in zip(steps, steps[1:])):
        raise Failure(f"wrong numbers: {steps}")
    t.reap()
    result = t.torpor("restore", t.image(), "--detach", "--progress", "json")
    steps = [json.loads(line) for line in result.err.splitlines()]
    if not any(s["step"] == "loading memory" and s["done"] == s["total"] > 8 << 20 for s in steps):
        raise Failure(f"the restore does not tell of the end: {result.err!r}")
    result = t.torpor("-q", "dump", root, "-o", t.image("quiet"))
    if result.out or result.err or not os.path.exists(t.image("quiet")):
        raise Failure(f"it is not quiet: {result}")
    if "--progress" not in t.torpor("--progress=loud", "check", expect=2).err:
        raise Failure("a wrong value is not named")
    if "no process" not in t.torpor("--quiet", "check", 4194303, expect=1).err:
        raise Failure("--quiet hides an error")



TREE = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        break
block = os.urandom(8 << 20)
os.write(1, b'ready\\n')
time.sleep(1000)
"""


@case("progress-tree")
def of_a_tree(t):
    """Several tasks load at the same time: one account of all of them, which never goes back."""
    root = t.start([PYTHON, "-c", TREE])
    t.until(lambda: read(f"{t.logs}/stdout", "").count("ready") == 4, 10, "the memory of all")
    t.dump(root)
    result = t.torpor("restore", t.image(), "--detach", "--progress=json")
    steps = [json.loads(line) for line in result.err.splitlines()]
    loading = [s for s in steps if s["step"] == "loading memory"]
    if len({s["total"] for s in loading}) != 1 or loading[0]["total"] < 32 << 20:
        raise Failure(f"the sum of all tasks is not told: {result.err!r}")
    if any(a["done"] > b["done"] for a, b in zip(loading, loading[1:])) or loading[-1]["done"] != loading[-1]["total"]:
        raise Failure(f"the tasks' progress is mixed: {result.err!r}")
