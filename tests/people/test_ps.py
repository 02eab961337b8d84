# SPDX-License-Identifier: Apache-2.0
"""torpor ps: processes and images; nothing is stopped."""

import json
import os
import re

from harness import PYTHON, Failure, case, read, tree_of
from test_help import IO_URING, io_urings
from test_inspect import HERE, expect, family, validate

SCHEMA = os.path.join(HERE, "..", "..", "doc", "ps.schema.json")


@case("ps")
def ps(t):
    root, (one, two), *_ = family(t)
    wrong = t.start([PYTHON, "-c", IO_URING])
    above = t.start(["sh", "-c", f"{PYTHON} -c '{IO_URING}' & sleep 1000; wait"])
    t.until(lambda: len(io_urings()) == 2, 10, "the io_urings")
    below = next(p for p in io_urings() if p != wrong)
    t.dump(root, keep=True)
    with open(t.image("cut"), "wb") as f:
        f.write(b"\x89TORPOR\n" + bytes(9000))
    t.setup.own(t.image("cut"))
    with open(os.path.join(t.images, "notes.txt"), "w") as f:
        f.write("no image\n")
    for pid in root, one, wrong, above:
        if "State:\tt" in read(f"/proc/{pid}/status"):
            raise Failure(f"{pid} was stopped")
    text = t.torpor("ps", t.images).out
    expect(text, rf"^ +{root} +\d+ +2 +\S+ \S+  python3 +yes  ", rf"^ +{one} +{root} +1 .* yes  ",
           rf"^ +{wrong} .* no: E-FD-IO-URING  ", rf"^ +{above} .* no: {below} below it  ",
           rf"^  {re.escape(t.image())} +\S+ \S+  .*  3 processes: {root} python3 \(its PID is in use\)$",
           rf"^  {re.escape(t.image('cut'))} .*\[E-IMAGE-", r"torpor check PID looks closer")
    if "notes.txt" in text or "\x1b" in text:
        raise Failure(f"a text is taken for an image, or a name does something to the terminal: {text!r}")
    about = t.torpor("ps", t.images, "--json").out
    validate(about, SCHEMA)
    entries = {p["pid"]: p for p in json.loads(about)["processes"]}
    if [entries[p]["may_be_saved"] for p in (root, one, wrong, above)] != [True, True, False, False]:
        raise Failure(f"wrong verdicts: {entries}")
    if entries[root]["bytes"] < 1 << 20 or entries[root]["threads"] != 2 or entries[one]["ppid"] != root:
        raise Failure(f"wrong: {entries[root]} {entries[one]}")
    for pid in root, wrong, above:
        if (t.torpor("check", pid, expect=None).status == 0) != entries[pid]["may_be_saved"]:
            raise Failure(f"check says otherwise of {pid}")
    expect(t.torpor("ps", t.path("no-folder"), expect=5).err, "no-folder")


@case("ps-run")
def of_torpor_run(t):
    """The namespaces of torpor run are no obstacle: a program there is saved from inside."""
    t.torpor_start(["run", "sleep", "1234"])

    def find():
        return [p for p in tree_of(os.getpid())[1:] if read(f"/proc/{p}/cmdline", "").startswith("sleep\0")]
    (pid,) = t.until(find, 10, "the program")
    inside = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    entries = {p["pid"]: p for p in json.loads(t.torpor("ps", t.work, "--json").out)["processes"]}
    if not inside or not entries[pid]["may_be_saved"] or t.torpor("check", pid, expect=None).status:
        raise Failure(f"in namespaces: {inside}, ps says {entries[pid]}")


@case("ps-empty")
def empty(t):
    expect(t.torpor("ps", t.work).out, r"^  none$")
    if json.loads(t.torpor("ps", t.work, "--json").out)["images"]:
        raise Failure("there are images")
