#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Where the image goes, and what torpor itself may use: whatever is refused or runs out, the program runs on.

    output.py [--torpor FILE] [--list] [NAME...]

A full disk, a limit of file sizes and a folder that vanishes are in kill.py; disks that fail (EIO), in disk.py and inject.py.
"""

import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Before, Steady, compile_steady, files, kill_tree, main, read_bytes  # noqa: E402
from harness import Failure, Skip, case, stat_of, tree_of  # noqa: E402

MIB = 1 << 20
TOO_LITTLE = -1  # to load torpor at all


def refused(t, program, before, path, status, words):
    result = t.torpor("dump", program.root, "-o", path, expect=status)
    if not re.search(words, result.err) or "what would help" not in result.err and status == 3:
        raise Failure(f"dump to {path}: {result}")
    program.check()
    before.expect_same(t)


@case("output-places")
def places(t):
    """No folder, no permission, a folder, a device, a FIFO, a name that is too long, a link to nowhere."""
    program = Steady(t)
    before = Before(program.root)
    closed, fifo = os.path.join(t.base, "closed"), t.path("fifo")
    os.mkdir(closed, 0o555)
    os.mkfifo(fifo)
    for path, status, words in ((t.path("nowhere/image"), 5, "No such file"), (t.images, 2, "is not a regular file"),
                                (t.images + "/", 2, "cannot write an image"), ("/dev/null", 2, "not a regular file"),
                                (fifo, 2, "not a regular file"), (closed + "/image", 3, "Permission denied"),
                                (t.images + "/" + "x" * 250, 5, "name too long"),
                                (t.path("steady") + "/image", 5, "Not a directory")):
        if t.setup.account is None and status == 3:
            continue
        refused(t, program, before, path, status, words)
    if os.listdir(closed) or files(t):
        raise Failure(f"left behind: {os.listdir(closed)} {files(t)}")


@case("output-read-only")
def read_only(t):
    if os.geteuid() != 0:
        raise Skip("only root can mount a file system")
    folder = os.path.join(t.base, "read-only")
    os.mkdir(folder)
    program = Steady(t)
    before = Before(program.root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=777", "none", folder], check=True)
    try:
        refused(t, program, before, folder + "/image", 5, "Read-only file system")
    finally:
        subprocess.run(["umount", folder], check=True)


# ---- torpor's own memory ----

def steps(most):
    """From next to nothing upwards."""
    size = 256 << 10
    while size < most:
        yield size
        size = size * 5 // 4


def limited(t, kind, size, *arguments):
    """Run torpor with so much memory. Its exit status; a Failure if it does not end properly."""
    limit = f"--{kind}={size}:{size}"
    account = t.setup.user_arguments()
    launcher = ["setpriv", f"--reuid={account['user']}", f"--regid={account['group']}", "--init-groups", "prlimit", limit]
    if subprocess.run([*launcher, t.setup.binary, "--version"], capture_output=True).returncode:
        return TOO_LITTLE
    t.launcher = launcher
    try:
        result = t.torpor(*arguments, expect=None, seconds=30)
    finally:
        t.launcher = []
    if not 0 <= result.status <= 5 or result.status and "torpor: " not in result.err:
        raise Failure(f"with {limit}: {result}")
    return result.status


def dumps(t, kind):
    if t.setup.account is None:
        raise Skip("only root can become the user and keep the file capability")
    program = Steady(t, 2)
    before = Before(program.root)
    tried = succeeded = 0
    for size in steps(256 * MIB):
        status = limited(t, kind, size, "dump", program.root, "-o", t.image(), "--keep-running")
        tried += status != TOO_LITTLE
        if files(t) != ([os.path.basename(t.image())] if status == 0 else []):
            raise Failure(f"{kind} {size}: status {status}, and these files: {files(t)}")
        if status == 0:
            t.torpor("verify", t.image())
            os.unlink(t.image())
            succeeded += 1
        program.check()
        before.expect_same(t)
        if succeeded == 3:
            break
    if not 0 < succeeded < tried:
        raise Failure(f"{succeeded} of {tried} succeeded")
    print(f"    {t.name}: {tried - succeeded} sizes refused, from {size * 64 // 125 >> 10} KiB on it works", flush=True)


def restores(t, kind):
    if t.setup.account is None:
        raise Skip("only root can become the user and keep the file capability")
    program = Steady(t, 2)
    root, members = program.root, tree_of(program.root)
    program.mark()
    t.dump(root)
    content = read_bytes(t.image())
    tried = succeeded = 0
    for size in steps(1024 * MIB):
        t.statuses.clear()
        status = limited(t, kind, size, "restore", t.image(), "--detach")
        tried += status != TOO_LITTLE
        if status == 0:
            program.again()
            kill_tree(t, root)
            succeeded += 1
        t.until(lambda: not any(stat_of(p) for p in members), 5, f"{kind} {size}: processes of the tree are left")
        if files(t) != [os.path.basename(t.image())] or read_bytes(t.image()) != content or tree_of(os.getpid())[1:]:
            raise Failure(f"{kind} {size}: the image has changed, or files or processes are left: {files(t)}")
        if succeeded == 3:
            break
    t.restore(root)
    program.again()
    if not 0 < succeeded < tried:
        raise Failure(f"{succeeded} of {tried} succeeded")
    print(f"    {t.name}: {tried - succeeded} sizes refused, from {size * 64 // 125 >> 10} KiB on it works", flush=True)


for _kind in ("as", "data"):
    case(f"dump-little-memory-{_kind}", needs=["setpriv", "prlimit"], limit=180, kind=_kind)(dumps)
    case(f"restore-little-memory-{_kind}", needs=["setpriv", "prlimit"], limit=180, kind=_kind)(restores)


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
