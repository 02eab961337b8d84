# SPDX-License-Identifier: Apache-2.0
"""Whole terminals: a shell with its jobs, an editor, tmux and screen."""

import os
import re
import time

from harness import PYTHON, ROUNDS, SLOWER, Failure, case, read, stat_of

SHELL = ["bash", "--norc", "--noprofile", "-i"]
ENVIRONMENT = {"TERM": "xterm", "INPUTRC": "/dev/null", "PS1": "shell> ", "HISTFILE": "", "SHELL": "/bin/bash"}


# ---- a shell on the terminal of a Python program ----

class Pane:
    """The terminal of targets/pane.py: it is typed to by a FIFO, and shows in a file."""

    def __init__(self, t):
        self.t, self.seen = t, 0
        self.root = t.start([PYTHON, "-B", t.target("pane.py"), "80", "24", *SHELL], environment=ENVIRONMENT)
        t.until(lambda: os.path.exists(t.path("keys")), 20, "the FIFO for the keys")
        self.expect("shell> ")

    def send(self, text):
        with open(self.t.path("keys"), "w") as f:
            f.write(text)

    def expect(self, pattern, seconds=20):
        """Wait for the pattern; what was shown up to its end is consumed."""
        end = time.monotonic() + seconds * SLOWER
        while True:
            text = read(self.t.path("screen"), "")
            found = re.compile(pattern).search(text, self.seen)
            if found:
                self.seen = found.end()
                return found
            if time.monotonic() > end:
                raise Failure(f"{pattern!r} did not come, but {text[self.seen:][-500:]!r}")
            self.t.reap()
            time.sleep(0.002)

    def command(self, line, pattern):
        """A command line and what it must show; then the prompt again."""
        self.send(line + "\n")
        self.expect(re.escape(line))
        found = self.expect(pattern)
        self.expect("shell> ")
        return found

    def child(self, name):
        """The PID of the task with this name in the tree, once it is there."""
        def find():
            return [p for p in self.t.shape(self.root) if (s := stat_of(p)) and s.comm == name]
        return self.t.until(find, 10, f"a process {name}")[0]

    def end(self):
        self.send("exit 7\n")
        status = self.t.wait_exit(self.root, 20)
        if status != 7:
            raise Failure(f"the shell ended with status {status}")


@case("pane-shell", needs=["bash"])
def shell(t):
    """Variables, history, the foreground job, a stopped one, one in the background; half a line typed."""
    pane = Pane(t)
    pane.command("bind 'set enable-bracketed-paste off'; x=0", "")
    pane.command("sleep 1000 & true", r"\[1\] \d+\r\n")
    pane.send("cat -u\n")
    pane.child("cat")
    pane.send("\x1a")
    pane.expect(r"\[2\]\+ +Stopped +cat -u\s")
    pane.expect("shell> ")
    for number in range(1, ROUNDS + 1):
        t.cycle(pane.root)
        pane.command("echo $((x += 1)) $(tty) $(stty size) $(jobs | wc -l)", rf"\n{number} /dev/pts/\d+ 24 80 2\r\n")
        pane.send("fg\n")
        pane.expect("fg\r\ncat -u\r\n")
        pane.send(f"half {number}")
        pane.expect(f"half {number}")
        t.cycle(pane.root)
        pane.send(" whole\n")
        pane.expect(f" whole\r\nhalf {number} whole\r\n")
        pane.send("\x1a")
        pane.expect(r"\[2\]\+ +Stopped +cat -u\s")
        pane.expect("shell> ")
    t.compare_cycle(pane.root)
    pane.send("fg\n")
    pane.expect("cat -u\r\n")
    pane.send("\x03")
    pane.expect(r"\^C")
    pane.expect("shell> ")
    pane.command("kill %1; wait; echo over", "over\r\n")
    pane.end()


@case("pane-editor", needs=["bash", "vim.tiny"])
def editor(t):
    """Text that was never written to a file, a stopped editor, a changed size."""
    pane = Pane(t)
    pane.command("vim.tiny --version | head -1", "VIM")
    pane.send("vim.tiny -u NONE text\n")
    pane.child("vim.tiny")
    pane.expect("~")
    pane.send("i")
    for number in range(1, ROUNDS + 1):
        pane.send(f"line {number}\r")
        pane.expect(f"line {number}")
        t.cycle(pane.root)
    pane.send("last\x1b")
    pane.send("\x1a")
    pane.expect("Stopped")
    t.cycle(pane.root)
    pane.send("fg\n")
    pane.expect("line 1.*\n*.*last")
    t.compare_cycle(pane.root)
    pane.send(":wq\r")
    pane.expect("shell> ")
    expected = "".join(f"line {n}\n" for n in range(1, ROUNDS + 1)) + "last\n"
    if read(t.path("text")) != expected:
        raise Failure(f"the editor wrote {read(t.path('text'))!r}")
    pane.end()
