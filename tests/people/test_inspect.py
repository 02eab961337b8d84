# SPDX-License-Identifier: Apache-2.0
"""torpor inspect: what people see, and that the JSON keeps to its schema; damaged images as far as they can be read."""

import json
import os
import random
import re
import struct
import subprocess
import sys

from harness import PYTHON, Failure, Skip, case, read, tree_of

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMA = os.path.join(HERE, "..", "..", "doc", "inspect.schema.json")
PAGE = 4096
FLIPS = 20


def expect(text, *patterns):
    for pattern in patterns:
        if not re.search(pattern, text, re.M):
            raise Failure(f"{pattern!r} is not in {text!r}")


def family(t):
    """Start it; returns root, its children, the port, and the numbers of the pipe's fds."""
    script = t.write("family.py", read(os.path.join(HERE, "family.py")))
    root = t.start([PYTHON, "-B", script, "</script><i>  "])
    line = t.until(lambda: re.search(r"ready (\d+) (\d+) (\d+)\n", read(f"{t.logs}/stdout", "")), 10, "the family stands")
    return root, tree_of(root)[1:], *map(int, line.groups())


def metadata_of(image):
    """(offset, size) of the metadata, from the trailer: see doc/format.md."""
    with open(image, "rb") as f:
        f.seek(-PAGE, os.SEEK_END)
        return struct.unpack("<QQ", f.read(PAGE)[24:40])


def damage(t, image, name, places):
    with open(image, "rb") as f:
        content = bytearray(f.read())
    for place in places:
        content[place] ^= 0x10
    with open(t.image(name), "wb") as f:
        f.write(content)
    t.setup.own(t.image(name))
    return t.image(name)


def validate(text, schema=SCHEMA):
    try:
        import jsonschema
    except ImportError:
        raise Skip("the Python module jsonschema is not installed")
    with open(schema) as f:
        jsonschema.Draft202012Validator(json.load(f)).validate(json.loads(text))


@case("inspect-parts")
def parts(t):
    root, (one, two), port, reader, writer = family(t)
    t.dump(root)
    text = t.torpor("inspect", t.image()).out
    expect(text, rf"3 processes, 4 threads$", rf"^  {root} python3, running, 2 threads, .*family\.py",
           rf"^  ├─ {one} python3", rf"^  └─ {two} python3",
           rf"127\.0\.0\.1:{port}",
           rf"^ +{reader} pipe +\d+, reads  ⇄ {two} fd {writer}$",
           rf"^ +{writer} pipe +\d+, writes  ⇄ {one} fd {reader}$",
           r"^ +\d+ unix_socket .*⇄ fd \d+, \d+ fd \d+", r"^  anonymous .* stored  █", r"gone",
           r"^time \(the tree stood still for", r"^  copying memory +[\d.]+ ms  [█░]{24}$", r"found to be zero and left out")
    if "\x1b" in text or "\u2028" in text:
        raise Failure("a name does something to the terminal")
    expect(text, r"<b>\\x1b\[31m", "</script><i>$")
    threads = t.torpor("inspect", t.image(), "--threads").out
    expect(threads, r"thread \d+ python3")
    if "file descriptors" in threads or threads.count("thread ") < 4:
        raise Failure(f"--threads shows {threads!r}")
    maps = t.torpor("inspect", t.image(), "--maps", "--task", one).out
    shown = set(re.findall(r"^ +\S+ \S+ of +\S+ \S+  (\d+) [0-9a-f]+-", maps, re.M))
    if shown != {str(one)}:
        raise Failure(f"--maps --task {one} shows mappings of {shown}")
    expect(maps, r"rw-p \[heap\]", r"r-xp .*libc")
    fds = t.torpor("inspect", t.image(), "--fds", "--task", two).out
    expect(fds, rf"^  {two} python3$", rf"^ +{writer} pipe")
    if re.search(rf"^  {one} ", fds, re.M):
        raise Failure("--task shows another task")
    expect(t.torpor("inspect", t.image(), "--task", 2, expect=2).err, "no task 2")


@case("inspect-last-restore")
def last_restore(t):
    """How long a restore took is known of the image afterwards, in each of the ways to look at it."""
    root, *_ = family(t)
    t.dump(root)
    if "last_restore" in json.loads(t.torpor("inspect", t.image(), "--json").out):
        raise Failure("it was never restored")
    before = read_bytes(t.image())
    t.restore(root)
    if read_bytes(t.image()) != before:
        raise Failure("the restore has changed the image")
    if "user.torpor.restore" not in os.listxattr(t.image()):
        raise Skip("files have no attributes here")
    expect(t.torpor("inspect", t.image()).out, r"^time of the last restore \(\d+\.\d ms\)$", r"^  processes and memory +\d+\.\d ms")
    text = t.torpor("inspect", t.image(), "--json").out
    validate(text)
    spent = json.loads(text)["last_restore"]
    if not all(0 < spent[phase] < 60e9 for phase in ("read_ns", "files_ns", "tasks_ns", "finish_ns")):
        raise Failure(f"the phases took {spent}")
    for wrong in b"1 2 3", b"2 1 1 1 1 1", b"1 1 1 1 1 99999999999999999", b"\xff" * 200:
        os.setxattr(t.image(), "user.torpor.restore", wrong)
        if "last_restore" in json.loads(t.torpor("inspect", t.image(), "--json").out):
            raise Failure(f"{wrong!r} is shown")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


@case("inspect-json")
def as_json(t):
    root, *_ = family(t)
    t.dump(root)
    text = t.torpor("inspect", t.image(), "--json").out
    validate(text)
    if "damage" in json.loads(text):
        raise Failure("a whole image is said to be damaged")


@case("inspect-damaged")
def damaged(t):
    """Metadata with a wrong checksum is shown as far as it goes, with status 4; and nothing in it makes inspect crash."""
    root, *_ = family(t)
    t.dump(root)
    start, size = metadata_of(t.image())
    name = read_bytes(t.image()).index(b"family.py", start)
    bad = damage(t, t.image(), "bad", [name])
    result = t.torpor("inspect", bad, expect=4)
    expect(result.out, r"\(DAMAGED\)$", rf"^  {root} python3", r"anonymous")
    expect(result.err, r"is damaged: .*\[E-IMAGE-DAMAGED\]", "what could be read is shown")
    result = t.torpor("inspect", bad, "--json", expect=4)
    validate(result.out)
    expect(json.loads(result.out)["damage"], "checksum")
    t.torpor("restore", bad, "--detach", expect=4)
    index = damage(t, t.image(), "index", [os.path.getsize(t.image()) - 2 * PAGE])
    expect(t.torpor("inspect", index, expect=4).out, rf"^  {root} python3")
    with open(t.image("cut"), "wb") as f:
        f.write(read_bytes(t.image())[:-PAGE])
    t.setup.own(t.image("cut"))
    expect(t.torpor("inspect", t.image("cut"), expect=4).err, r"E-IMAGE-CUT-OFF")
    random.seed(7)
    shown = 0
    for _ in range(FLIPS):
        image = damage(t, t.image(), "flipped", [start + random.randrange(size) for _ in range(random.choice((1, 3, 30)))])
        for more in [], ["--json"], ["-v"]:
            done = subprocess.run([t.setup.binary, "inspect", image, *more], capture_output=True, env=t.setup.environment())
            if done.returncode != 4:
                raise Failure(f"inspect {more} of a damaged image ended with {done.returncode}: {done.stderr!r}")
        shown += bool(done.stdout)
    if shown < FLIPS / 10:
        raise Failure(f"only {shown} of {FLIPS} damaged images were shown")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()
