# SPDX-License-Identifier: Apache-2.0
"""What torpor must refuse, how it says so, and that nothing is harmed by it."""

import os
import re
import socket
import subprocess
import time

from harness import PYTHON, Failure, Skip, Steps, case, finish, stat_of, state_of

HOLDER = "holder.py"


def hold(t, *what):
    steps = Steps(t, ["step"])
    root = t.start([PYTHON, "-B", t.target(HOLDER), *map(str, what)])
    steps.advance()
    with open(t.path("fds")) as f:
        return root, steps, f.read().split()


def says(result, *patterns):
    for pattern in patterns:
        if not re.search(pattern, result.err, re.I):
            raise Failure(f"the message does not say {pattern!r}: {result.err.strip()!r}")


def unharmed(t, root, steps):
    steps.advance()
    t.untraced(root)


@case("refuse-obstacles")
def obstacles(t):
    """Every obstacle is listed at once; the program runs on; there is no image."""
    listener = socket.create_server(("127.0.0.1", 0))
    root, steps, fds = hold(t, "io_uring", "tcp", listener.getsockname()[1], "io_uring")
    result = t.torpor("dump", root, "-o", t.image(), expect=1)
    says(result, str(root), *[rf"fd {fd}\b" for fd in fds], "io_uring", "TCP")
    if os.listdir(t.images):
        raise Failure(f"the refused dump left {os.listdir(t.images)}")
    unharmed(t, root, steps)
    says_check = t.torpor("check", root, expect=1)
    if not re.search("io_uring", says_check.out + says_check.err):
        raise Failure(f"torpor check does not name the obstacle: {says_check}")
    unharmed(t, root, steps)
    finish(t, root, steps)


@case("refuse-changed-file")
def changed_file(t):
    data = t.write("data", b"x" * 10000)
    before = os.stat(data)
    root, steps, _ = hold(t, "file", data)
    t.dump(root)
    with open(data, "ab") as f:
        f.write(b"more")
    result = t.restore(root, expect=1)
    says(result, re.escape(data))
    nothing_left(t, root)
    os.truncate(data, 10000)
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))

    os.rename(data, data + ".moved")
    says(t.restore(root, expect=1), re.escape(data))
    nothing_left(t, root)
    t.write("data", b"x" * 10000)  # the same content in another inode
    says(t.restore(root, expect=1), re.escape(data))
    nothing_left(t, root)
    os.replace(data + ".moved", data)

    t.restore(root)
    unharmed(t, root, steps)
    finish(t, root, steps)


@case("refuse-changed-binary")
def changed_binary(t):
    with open("/bin/sleep", "rb") as f:
        content = f.read()
    program = t.write("program", content)
    os.chmod(program, 0o755)
    root = t.start([program, "100"])
    time.sleep(0.1)
    t.dump(root)
    os.rename(program, program + ".moved")
    with open("/bin/dash", "rb") as f:
        t.write("program", f.read())
    os.chmod(program, 0o755)
    says(t.restore(root, expect=1), re.escape(program))
    nothing_left(t, root)
    os.replace(program + ".moved", program)
    t.restore(root)
    if not stat_of(root):
        raise Failure("the program was not restored")


def nothing_left(t, root):
    t.reap()
    if stat_of(root):
        raise Failure(f"the refused restore left task {root}")


@case("refuse-taken-pid")
def taken_pid(t):
    """The original still has the PIDs of the copy."""
    t.only_where_pids_are_taken()
    root, steps, _ = hold(t)
    t.dump(root, keep=True)
    result = t.restore(root, expect=None)
    if result.status not in (1, 5):
        raise Failure(f"expected status 1: {result}")
    says(result, str(root), r"\bpid\b")
    unharmed(t, root, steps)
    finish(t, root, steps)


@case("wait-for-zombie")
def zombie(t):
    """A PID that only a zombie holds becomes free when its parent reaps it: restore waits for that."""
    t.only_where_pids_are_taken()
    root, steps, _ = hold(t)
    arguments = ["dump", root, "-o", t.image()]
    dump = subprocess.Popen([t.setup.binary, *map(str, arguments)], stdin=subprocess.DEVNULL, cwd=t.work,
                            env=t.setup.environment(), **t.setup.user_arguments())
    if dump.wait(30 * t.limit_factor()):
        raise Failure(f"dump failed with {dump.returncode}")
    if state_of(root) != "Z":
        raise Skip("the task is no zombie after the dump")
    t.statuses.clear()
    began = time.monotonic()
    restore = subprocess.Popen([t.setup.binary, "restore", t.image(), "--detach"], stdin=subprocess.DEVNULL,
                               cwd=t.work, env=t.setup.environment(), stdout=t.output("r.out"),
                               stderr=t.output("r.err"), **t.setup.user_arguments())
    time.sleep(0.4)
    os.waitpid(root, 0)
    status = restore.wait(30 * t.limit_factor())
    if status:
        raise Failure(f"restore failed with {status} after {time.monotonic() - began:.1f} s: "
                      + open(t.logs + "/r.err").read())
    unharmed(t, root, steps)
    finish(t, root, steps)


@case("refuse-damaged-image")
def damaged(t):
    root, steps, _ = hold(t)
    t.dump(root)
    with open(t.image(), "rb") as f:
        good = f.read()
    size = len(good)
    places = [0, 9, 4096 + 5, 4096 * 3 + 100, size - 4096 - 3, size - 4096, size - 4096 + 9]

    def flip(place):
        return good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1:]
    bad = {f"byte {p} of {size}": flip(p) for p in places if good[p:p + 1]}
    bad |= {"cut in half": good[:size // 2], "cut by one": good[:-1], "empty": b"", "a text": b"hello\n" * 3000}
    for name, content in bad.items():
        if name == f"byte {size - 4096 - 3} of {size}" and good[size - 4096 - 3] == 0:
            continue  # padding before the trailer
        with open(t.image("bad"), "wb") as f:
            f.write(content)
        t.setup.own(t.image("bad"))
        t.log(f"damage: {name}")
        for command in (["restore", t.image("bad"), "--detach"], ["verify", t.image("bad")]):
            result = t.torpor(*command, expect=None)
            if result.status != 4:
                raise Failure(f"{command[0]} of a damaged image ({name}): expected status 4, got {result}")
            if not result.err.strip():
                raise Failure(f"{command[0]} of a damaged image ({name}) says nothing")
        nothing_left(t, root)
    t.torpor("verify", t.image())
    t.restore(root)
    unharmed(t, root, steps)
    finish(t, root, steps)


@case("usage")
def usage(t):
    for wrong in ([], ["no-such-command"], ["dump"], ["dump", "4bc"], ["restore"], ["verify"], ["inspect"],
                  ["dump", "--no-such-option", "1"], ["restore", "--fd", "x", "file"], ["dump", "1", "2"],
                  ["dump", "1", "-o", "-"], ["core", "file", "-o", "-"], ["squash", "file", "-o", "-"]):
        result = t.torpor(*wrong, expect=2)
        if not result.err.strip():
            raise Failure(f"torpor {wrong} says nothing")
    for right in (["--version"], ["--help"], *[[c, "--help"] for c in ("dump", "restore", "check", "inspect", "verify")]):
        if not t.torpor(*right).out.strip():
            raise Failure(f"torpor {right} says nothing")
    if t.torpor("dump", 4194304, "-o", t.image(), expect=None).status in (0, 2):
        raise Failure("the dump of a task that does not exist")
    if t.torpor("restore", t.image("none"), expect=None).status in (0, 2):
        raise Failure("the restore of a file that does not exist")


@case("refuse-other-user")
def other_user(t):
    if t.setup.account is None:
        raise Skip("only root can start a program as another user")
    root = t.popen(["sleep", "60"], subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL, user=False)
    time.sleep(0.1)
    t.torpor("dump", root, "-o", t.image(), expect=3)
    if state_of(root) in ("", "Z"):
        raise Failure("the other user's program has ended")


@case("inspect")
def inspect(t):
    """inspect says what it is about, --json is JSON, check says that this machine will do."""
    import json
    root, steps, _ = hold(t)
    t.torpor("check")
    t.torpor("check", root)
    unharmed(t, root, steps)
    t.dump(root)
    text = t.torpor("inspect", t.image()).out
    for word in (str(root), "python3", "steps" if "steps" in text else "stdout"):
        if word not in text:
            raise Failure(f"inspect does not mention {word}")
    about = t.torpor("inspect", t.image(), "--json").out
    if str(root) not in about:
        raise Failure("inspect --json does not mention the PID")
    json.loads(about)
    t.restore(root)
    finish(t, root, steps)


@case("default-file")
def default_file(t):
    """Without -o the image is COMM-PID.torpor in the current folder."""
    root = t.start(["sleep", "60"])
    time.sleep(0.1)
    t.torpor("dump", root)
    name = f"sleep-{root}.torpor"
    if os.listdir(t.work) != [name]:
        raise Failure(f"the work folder holds {os.listdir(t.work)}, not {name}")
    t.until(lambda: not stat_of(root), 5, "the end of the tree")
    t.look_at(root, t.torpor("restore", name, "--detach").out, "standard output")
    if not stat_of(root):
        raise Failure("the program was not restored")
