#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A restore touches nothing but what its image names: no other address, path or process.

    within.py [--torpor FILE] [--list] [NAME...]

For images of real programs: within_image reads the plan, the scripts and the switch of address spaces, step by step. Then the
image is restored under watch.c, and every path and PID that torpor and the tasks on their way hand to the kernel must be
one of the image's, or torpor's own. The same is asked of mutated metadata by tests/fuzz/fuzz_meta.c.
"""

import json
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attacked import Jvm, RedisServer, Rich  # noqa: E402
from common import PythonThreads, Steady, Watch, compile_steady, main, read_bytes  # noqa: E402
from harness import Failure, Skip, case, stat_of, tree_of  # noqa: E402

# What torpor reads, whatever the image: its own process, the machine, libc's files.
OWN_PATHS = re.compile("|".join((
    r"/proc(/(self|thread-self|[a-z][a-z_]*)(/.*)?)?", r"/sys/.*", r"/etc/(ld\.so\.\w+|suid-debug)", r"/lib\w*/.*",
    r"/usr/lib/(locale|x86_64-linux-gnu)/.*", r"/dev/(null|tty|shm|ptmx|pts(/\d+)?|mqueue)")))


def strings_in(value):
    """Every string of what `inspect --json` says."""
    if isinstance(value, dict):
        for part in value.values():
            yield from strings_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part)
    elif isinstance(value, str):
        yield value


def numbers_in(value, key=""):
    """PIDs and TIDs."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from numbers_in(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from numbers_in(part, key)
    elif isinstance(value, int) and key in ("pid", "tid", "pgid", "sid", "ppid"):
        yield value


def folders_of(path):
    while path not in ("", "/"):
        path = os.path.dirname(path)
        yield path


def expect_within(t, touched, paths, pids, own):
    allowed = {*paths, *(folder for path in paths for folder in folders_of(path)), t.image(), t.images}
    for path, who in touched["path"]:
        number = re.match(r"/proc/(\d+)(/|$)", path)
        path = os.path.normpath(re.sub(r"^//+", "/", path)).removesuffix(" (deleted)")
        path = re.sub(r"\.torpor-\d+$", "", path)  # what a socket's name led to, meanwhile
        if number and int(number.group(1)) not in pids | own:
            raise Failure(f"{who}: {path} is of a process that the image does not name")
        if not number and path not in allowed and not OWN_PATHS.fullmatch(path):
            raise Failure(f"{who}: {path} is not named by the image")
    for pid, who in touched["pid"]:
        if abs(int(pid)) not in pids | own | {0, 1}:
            raise Failure(f"{who}: {pid} is a process that the image does not name")


def within(t, start):
    program = start(t)
    root = program.root
    driver = os.path.join(t.setup.build, "tests/fuzz/within_image")
    if not os.access(driver, os.X_OK):
        raise Skip(f"{driver} has not been built")
    watch = Watch(t)
    t.stop_tree(root)  # so that the restored program, which is watched as well, does nothing
    t.torpor("dump", root, "-o", t.image(), *program.options)
    done = subprocess.run([driver, t.image()], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{done.stdout}{done.stderr}")
    named = json.loads(t.torpor("inspect", t.image(), "--json").out)
    paths = {string.removesuffix(" (deleted)") for string in strings_in(named) if string.startswith("/")}
    pids = set(numbers_in(named))
    result, touched = watch.run("restore", t.image(), "--detach")
    # torpor and what it makes for itself: who calls, and whom the watch found among its descendants
    own = {int(re.search(r"\((\d+)\)", who).group(1)) for what in touched.values() for _, who in what}
    own |= {abs(int(pid)) for pid, _ in touched["own"]}
    expect_within(t, touched, paths, pids, own)
    print(f"    {t.name}: {done.stdout.strip()}; {len(touched['path'])} paths and {len(touched['pid'] + touched['own'])} PIDs in the restore",
          flush=True)


for _name, _needs, _start in (("steady", (), lambda t: Steady(t, 3)), ("python", (), PythonThreads), ("rich", (), Rich),
                              ("jvm", ("javac",), Jvm), ("redis", ("redis-server",), RedisServer)):
    case(f"within-{_name}", needs=list(_needs), limit=120, start=_start)(within)


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda setup: compile_steady(setup, "watch")))
