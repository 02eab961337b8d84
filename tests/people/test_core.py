# SPDX-License-Identifier: Apache-2.0
"""Core files: what gdb sees in them is what it saw in the living program."""

import os
import re
import shutil
import signal
import subprocess

from harness import COMPILER, PYTHON, Failure, case, read

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = ["x/s shared_memory + 5 * 4096", "x/s private_memory + 7 * 4096", "p answer", "p never",
         "x/4bx shared_memory", "x/4bx private_memory + 4096"]


def build(t, *flags):
    program = t.path("threads")
    subprocess.run([*COMPILER, "-std=gnu17", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror",
                    "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", *flags, "-o", program,
                    os.path.join(HERE, "threads.c"), "-pthread"], check=True)
    return program


def gdb(t, *arguments, commands):
    argv = ["gdb", "-nx", "-q", "-batch"]
    for command in ["set print thread-events off", "set debuginfod enabled off", *commands]:
        argv += ["-ex", command]
    done = subprocess.run([*argv, *arguments], capture_output=True, text=True, cwd=t.work, timeout=60 * t.limit_factor())
    t.log(done.stdout + done.stderr)
    if done.returncode:
        raise Failure(f"gdb ended with {done.returncode}: {done.stderr[-400:]!r}")
    return done.stdout


def backtraces(text):
    """{TID: names of functions, innermost first}, as `thread apply all backtrace` shows them."""
    found = {}
    for part in re.split(r"^Thread ", text, flags=re.M)[1:]:
        tid = int(re.search(r"LWP (\d+)", part)[1])
        found[tid] = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\S+) \(", part, re.M)
    return found


def values(text):
    return re.findall(r"^(?:\$\d+ = .*|0x[0-9a-f]+.*:\s.*)$", text, re.M)


@case("core", needs=["gdb", "cc"])
def core(t, *flags):
    program = build(t, *flags)
    root = t.start([program])
    t.until(lambda: "standing" in read(f"{t.logs}/stdout", ""), 10, "the threads stand")
    asked = ["thread apply all backtrace", *WORDS]
    living = gdb(t, program, "-p", str(root), commands=asked)
    os.kill(root, signal.SIGCONT)
    t.dump(root)
    output = t.path("saved.core")
    said = t.torpor("core", t.image(), "-o", output).out
    if "4 threads" not in said:
        raise Failure(f"it does not speak of four threads: {said!r}")
    saved = gdb(t, program, output, commands=asked)
    before, after = backtraces(living), backtraces(saved)
    if len(before) != 4 or not any("sleeps_at_a_semaphore" in names for names in before.values()):
        raise Failure(f"the test itself is wrong: {before}")
    if before != after:
        raise Failure(f"gdb saw {before}, and in the core file {after}")
    if values(living) != values(saved) or len(values(saved)) != len(WORDS):
        raise Failure(f"gdb saw {values(living)}, and in the core file {values(saved)}")
    for words in "shared words", "private words":
        if words not in saved:
            raise Failure(f"no {words!r} in the core file")
    if os.stat(output).st_blocks * 512 > 2 * os.path.getsize(t.image()):
        raise Failure("the core file is larger than the image: its zeros are no holes")
    checked(t, root, output)


def checked(t, root, output):
    """The command's own messages."""
    if "saved.core" not in t.torpor("core", t.image(), "-o", output, expect=5).err:
        raise Failure("an existing file is not named")
    if "12345" not in t.torpor("core", t.image(), "--task", 12345, "-o", t.path("x"), expect=2).err:
        raise Failure("a task that is not in the image is not named")
    t.torpor("core", t.image(), "--task", root)
    if os.stat(t.path(f"core.{root}")).st_mode & 0o077:
        raise Failure("others may read the core file")


@case("core-python", needs=["gdb"])
def core_python(t):
    """A large program without symbols for debugging; backtraces go by what libraries export."""
    root = t.start([PYTHON, "-uc", "import threading, time; threading.Thread(target=threading.Event().wait).start(); "
                                   "print('standing'); time.sleep(99)"])
    t.until(lambda: "standing" in read(f"{t.logs}/stdout", ""), 10, "the threads stand")
    program = os.path.realpath(f"/proc/{root}/exe")
    before = backtraces(gdb(t, program, "-p", str(root), commands=["thread apply all backtrace"]))
    t.dump(root)
    t.torpor("core", t.image(), "-o", t.path("saved.core"))
    after = backtraces(gdb(t, program, t.path("saved.core"), commands=["thread apply all backtrace"]))
    if len(before) != 2 or before != after:
        raise Failure(f"gdb saw {before}, and in the core file {after}")


@case("core-static", needs=["gdb", "cc"])
def core_static(t):
    core(t, "-static")


@case("core-damaged", needs=["cc"])
def damaged(t):
    """No core file is made of a damaged image."""
    root = t.start([build(t)])
    t.until(lambda: "standing" in read(f"{t.logs}/stdout", ""), 10, "the threads stand")
    t.dump(root)
    shutil.copy(t.image(), t.image("bad"))
    with open(t.image("bad"), "r+b") as f:
        f.seek(4096 + 17)
        byte = f.read(1)[0]
        f.seek(4096 + 17)
        f.write(bytes([byte ^ 4]))
    t.setup.own(t.image("bad"))
    if "E-IMAGE-DAMAGED" not in t.torpor("core", t.image("bad"), "-o", t.path("c"), expect=4).err:
        raise Failure("the message has no id")
    if os.path.exists(t.path("c")):
        raise Failure("it left a core file")
