# SPDX-License-Identifier: Apache-2.0
"""Help: ids and manual pages."""

import os
import re
import subprocess

from harness import PYTHON, Failure, case, read, stat_of

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
IO_URING = "import ctypes, time; ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120)); time.sleep(99)"


def commands(t):
    return re.findall(r"^  torpor (\w+)", t.torpor("--help").out, re.M)


def io_urings():
    """The processes that have one."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any("io_uring" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(int(pid))
        except OSError:  # it has ended, or closed that one
            pass
    return found


def expect(text, *patterns):
    for pattern in patterns:
        if not re.search(pattern, text):
            raise Failure(f"{pattern!r} is not in {text!r}")


@case("help-ids")
def ids(t):
    """An obstacle and an error show their ids, and help explains them."""
    root = t.start([PYTHON, "-c", IO_URING])
    t.until(lambda: root in io_urings(), 10, "the io_uring")
    expect(t.torpor("dump", root, "-o", t.image(), expect=1).err, r"io_uring.* \[E-FD-IO-URING\]\n")
    if not stat_of(root):
        raise Failure("the refused program has ended")
    expect(t.torpor("check", 4194303, expect=1).err, r"4194303 \[E-TASK-NONE\]\n")
    expect(t.torpor("verify", "/etc/passwd", expect=4).err, r"\[E-IMAGE-NONE\]\n")
    for topic in "E-FD-IO-URING", "e-fd-io-uring", "fdiouring", "IOURING":
        expect(t.torpor("help", topic).out, r"^E-FD-IO-URING\n", r"\nWhat it is +An? ", r"\nWhy ", r"\nWhat to do .*io_uring")
    listed = t.torpor("help").out
    for name in re.findall(r'^ID\("([^"]+)"', read(os.path.join(TOP, "src/api/ids.def")), re.M):
        expect(listed, rf"\n  {name} ")
    expect(t.torpor("help", "TIMERFD", expect=2).err, "E-FD-TIMERFD-ALARM", "E-FD-TIMERFD-CANCELLED")
    t.torpor("help", "no-such-topic", expect=2)


@case("help-commands")
def help_commands(t):
    """help COMMAND shows something for each command, and --help the same options as the manual page."""
    found = commands(t)
    if not {"dump", "restore", "check", "inspect", "verify", "help"} <= set(found):
        raise Failure(f"--help lists only {found}")
    for name in found:
        usage = t.torpor(name, "--help").out
        expect(usage, rf"^usage: torpor {name}\b")
        shown = t.torpor("help", name).out
        expect(shown, name)
        page = read(os.path.join(TOP, f"doc/man/torpor-{name}.1"))
        if page is None:
            raise Failure(f"{name} has no manual page")
        written = {"--" + o.replace("\\-", "-") for o in re.findall(r"Fl -([a-z-]+)", page)}
        options = set(re.findall(r"(--[a-z][a-z-]+)", usage))
        if options - written:
            raise Failure(f"not in the manual page of {name}: {sorted(options - written)}")


@case("man-pages", needs=["mandoc"])
def man_pages(t):
    """mandoc finds nothing to say, and torpor(1) leads to each page."""
    main = read(os.path.join(TOP, "doc/man/torpor.1"))
    for name in commands(t):
        expect(main, rf"\.It Cm {name}\n", rf"\.Xr torpor-{name} 1")
    folder = os.path.join(TOP, "doc/man")
    for page in sorted(p for p in os.listdir(folder) if p[-2:] in (".1", ".3")):
        said = subprocess.run(["mandoc", "-Tlint", page], cwd=folder, capture_output=True, text=True).stdout
        rest = [line for line in said.splitlines() if "referenced manual not found" not in line and "mandoc.db" not in line]
        if rest:
            raise Failure(rest[0])
