# SPDX-License-Identifier: Apache-2.0
"""doc/tutorial.md, typed word for word: each command does what the page says that it does."""

import os
import pty
import re
import select
import signal
import subprocess
import termios

from harness import Failure, case, read

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
# Types what comes in on fd 9, which nothing that it starts inherits, and says how each command ended.
SHELL = """while IFS= read -r -d '' -u 9 command; do eval "$command" 9<&-; echo "ended with $?"; done"""
PATIENCE = 30


def steps(text):
    """(command, what the page shows of its output) of every block that has a prompt, in the order of the page."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        if language:  # nothing for this machine
            continue
        until = None
        for line in block.splitlines():
            if until:
                found[-1][0] += "\n" + line
                until = None if line == until else until
            elif line.startswith("$ "):
                found.append([line[2:], []])
                until = "END" if "<<'END'" in line else None
            elif found:
                found[-1][1].append(line.strip())
    return found


PACKED = r"( +packed +into +[0-9.]+ +[KMG]iB)?;"  # what can be packed quickly is, which depends on the machine


def pattern(shown):
    """Numbers differ, and so do paths of people's folders."""
    text = re.escape(re.sub(r"/home/anna/", "\0", shown))
    text = re.sub(r"\d+(\\\.\d+)?", r"\\d+(\\.\\d+)?", text)
    text = re.sub(r"(\\ )+", r" +", text).replace("\\\0", "/.*/").replace("\0", "/.*/")
    return re.compile(text.replace("MiB", "[KMG]iB").replace("KiB", "[KMG]iB").replace("iB;", "iB" + PACKED))


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, t):
        self.t, self.text = t, ""
        self.master, slave = pty.openpty()
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        reader, self.keys = os.pipe()
        self.pid = t.popen(["bash", "-c", f"exec 9<&{reader} {reader}<&-; {SHELL}"], slave, slave, slave, pass_fds=(reader,),
                           environment={"PATH": os.path.dirname(t.setup.binary) + ":/usr/bin:/bin", "TERM": "dumb"})
        os.close(reader)
        os.close(slave)

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")
        return self.text

    def type(self, command, shown):
        """Type it; everything that is shown must come, in this order."""
        begin = len(self.read())
        os.write(self.keys, command.encode() + b"\0")
        self.t.until(lambda: re.search(r"^ended with (\d+)$", self.read()[begin:], re.M), PATIENCE, f"the end of {command!r}")
        at = begin
        for line in shown:
            found = self.t.until(lambda: pattern(line).search(self.read(), at) or self.over(command, line, begin), PATIENCE,
                                 f"{line!r} of {command!r}, in {self.text[begin:]!r}")
            at = found.end()
        status = int(re.search(r"^ended with (\d+)$", self.text[begin:], re.M)[1])
        refused = any("[E-" in line for line in shown)
        if (status != 0) != refused:
            raise Failure(f"{command!r} ended with {status}: {self.text[begin:]!r}")
        self.t.log(f"$ {command}\n{self.text[begin:]}")

    def over(self, command, line, begin):
        """What runs in the background may still say it; else it will not come."""
        if not command.endswith("&"):
            raise Failure(f"{command!r} does not show {line!r}, but {self.text[begin:]!r}")


@case("tutorial", needs=["java", "javac", "gcc", "gdb"])
def tutorial(t):
    page = steps(read(os.path.join(TOP, "doc", "tutorial.md")))
    if len(page) < 30 or sum(len(shown) for _, shown in page) < 25:
        raise Failure("so few commands cannot be the whole page")
    terminal = Terminal(t)
    for command, shown in page:
        terminal.type(command, shown)
