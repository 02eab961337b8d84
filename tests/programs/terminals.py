# SPDX-License-Identifier: Apache-2.0
"""Whole terminals: a shell with its jobs, an editor, tmux and screen."""

import os
import pty
import re
import shutil
import subprocess
import time

from harness import ENVIRONMENT_PATH, PYTHON, ROUNDS, SLOWER, Failure, View, case, in_foreground, outside, read, stat_of

ENVIRONMENT = {"TERM": "xterm", "INPUTRC": "/dev/null", "SHELL": "/bin/bash"}


def shell_of(t):
    """The command of an interactive shell that shows only what is expected."""
    rc = t.write("rc", "PS1='shell> '\nHISTFILE=\nbind 'set enable-bracketed-paste off'\n")
    return ["bash", "--rcfile", rc, "-i"]


# ---- a shell on the terminal of a Python program ----

class Pane:
    """The terminal of targets/pane.py: it is typed to by a FIFO, and shows in a file."""

    def __init__(self, t):
        self.t, self.seen = t, 0
        self.root = t.start([PYTHON, "-B", t.target("pane.py"), "80", "24", *shell_of(t)], environment=ENVIRONMENT)
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
    pane.command("x=0", "")
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
    t.until(lambda: in_foreground(pane.root, "cat"), 20, "cat in the foreground")
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
    pane.expect("(?s)line 1.*last")
    t.compare_cycle(pane.root)
    pane.send(":wq\r")
    pane.expect("shell> ")
    expected = "".join(f"line {n}\n" for n in range(1, ROUNDS + 1)) + "last\n"
    if read(t.path("text")) != expected:
        raise Failure(f"the editor wrote {read(t.path('text'))!r}")
    pane.end()


@case("pane-nested", needs=["bash", "script"])
def nested(t):
    """A terminal within a terminal: what script(1) shows and writes down; end of file by ^D, at last."""
    pane = Pane(t)
    shell = " ".join(shell_of(t)).replace(" -i", "")
    pane.send(f"script -q -f -c '{shell}' typescript\n")
    inner = pane.child("script")
    pane.expect("shell> ")
    pane.command("y=0", "")
    for number in range(1, ROUNDS + 1):
        t.cycle(pane.root)
        pane.command("echo $((y += 1)) $PPID", rf"\n{number} {inner}\r\n")
    pane.send("\x04")
    pane.expect("exit\r\n")
    pane.expect("shell> ")
    pane.command("jobs; wc -l < typescript", r"\n\d+\r\n")
    if f"{ROUNDS} {inner}" not in read(t.path("typescript")):
        raise Failure(f"script wrote {read(t.path('typescript'))!r}")
    pane.end()


# ---- tmux and screen: a server, its shells, and clients that come and go ----

class Server:
    """What both have in common: commands to the server, and a client on a terminal of ours."""

    entering = ()  # what puts a client where it can see the server's PID, for those that look for it

    def __init__(self, t):
        self.t, self.clients = t, 0

    def ask(self, *arguments):
        """Run a command of the server's own program; what it prints."""
        path = os.path.join(self.t.logs, "answer")
        if os.path.exists(path):
            os.unlink(path)
        with self.t.output("answer") as out:
            pid = self.t.popen([*self.program, *map(str, arguments)], subprocess.DEVNULL, out, out,
                               environment={**ENVIRONMENT, **self.environment})
        status = self.t.wait_exit(pid, 20)
        if status != 0:
            raise Failure(f"{arguments} ended with status {status}: {read(path)}")
        return read(path)

    def expect(self, window, pattern, seconds=20):
        """Wait until a window shows the pattern."""
        try:
            self.t.until(lambda: re.search(pattern, self.shown(window), re.M), seconds, "", pause=0.01)
        except Failure:
            raise Failure(f"{pattern!r} is not in window {window}: {self.shown(window)!r}")

    def attach(self, pattern):
        """A client comes: it is shown what is there, and types a command."""
        client = Client(self)
        client.expect(pattern)
        self.clients += 1
        client.type(f"echo typed by $((6 * 7)) {self.clients}\r")
        client.expect(f"typed by 42 {self.clients}")
        return client


class Client:
    """A client on a terminal of ours."""

    def __init__(self, server):
        self.t, self.text, self.detaching = server.t, "", server.detaching
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.t.setup.own(os.ttyname(slave))
        self.pid = self.t.popen(["setsid", "-c", *server.entering, *server.program, *server.attaching], slave, slave, slave,
                                session=False, environment={**ENVIRONMENT, **server.environment})
        os.close(slave)

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern):
        def found():
            try:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # nothing yet, or the end
                pass
            return re.search(pattern, self.text)
        try:
            self.t.until(found, 20, "")
        except Failure:
            raise Failure(f"{pattern!r} was not shown, but {self.text[-700:]!r}")

    def end(self, pattern):
        self.expect(pattern)
        self.t.wait_exit(self.pid, 20)
        os.close(self.master)

    def detach(self):
        self.type(self.detaching)
        self.end("detached")


class Tmux(Server):
    def __init__(self, t):
        super().__init__(t)
        self.program = ["tmux", "-S", t.path("socket"), "-f", "/dev/null"]
        self.attaching, self.detaching, self.environment = ["attach", "-t", ":0"], "\x02d", {}
        self.ask("new-session", "-d", "-x", "80", "-y", "24", " ".join(shell_of(t)))
        self.ask("set-option", "-g", "assume-paste-time", "0")  # keys are keys, however fast they come
        self.root = int(self.ask("display-message", "-p", "#{pid}"))

    def window(self):
        return int(self.ask("new-window", "-P", "-F", "#{window_index}", " ".join(shell_of(self.t))))

    def send(self, window, text):
        self.ask("send-keys", "-t", f":{window}", "-l", text)

    def shown(self, window):
        return self.ask("capture-pane", "-p", "-t", f":{window}")

    def end(self):
        self.ask("kill-server")


class Screen(Server):
    def __init__(self, t):
        super().__init__(t)
        copy = shutil.copy(shutil.which("screen", path=ENVIRONMENT_PATH), t.path("program"))
        os.chmod(copy, 0o755)  # set-group-ID programs cannot be saved by their user
        os.mkdir(t.path("sockets"), 0o700)
        t.setup.own(t.path("sockets"))
        self.program, self.environment = [copy, "-S", "work"], {"SCREENDIR": t.path("sockets")}
        self.attaching, self.detaching, self.windows = ["-p", "0", "-r"], "\x01d", 1
        self.ask("-dm", "-c", "/dev/null", *shell_of(t))
        self.root = int(t.until(lambda: os.listdir(t.path("sockets")), 10, "the socket")[0].split(".")[0])

    @property
    def entering(self):
        """A client signals to the PID in the name of the socket: in tier userns it has to go where that is the server's."""
        if not View.init:
            return []
        return ["nsenter", "--preserve-credentials", "--user", "--mount", "--pid", f"--wd={self.t.work}",
                f"--target={outside(self.root)}"]

    def window(self):
        self.ask("-X", "screen", *shell_of(self.t))
        self.windows += 1
        return self.windows - 1

    def send(self, window, text):
        self.ask("-p", window, "-X", "stuff", text)

    def shown(self, window):
        path = self.t.path("hardcopy")
        if os.path.exists(path):
            os.unlink(path)
        self.ask("-p", window, "-X", "hardcopy", path)
        return self.t.until(lambda: read(path), 10, "what is shown")

    def end(self):
        self.ask("-X", "quit")


@case("tmux", needs=["tmux", "bash", "vim.tiny"], server=Tmux)
@case("screen", needs=["screen", "bash", "vim.tiny"], server=Screen)
def multiplexer(t, server):
    """Two shells, one of them with an editor, ten rounds; a client before, in between and afterwards."""
    server = server(t)
    shell, other = 0, server.window()
    server.expect(shell, "shell>$")
    server.send(shell, "x=0\r")
    server.expect(other, "shell>$")
    server.send(other, "vim.tiny -u NONE text\r")
    server.expect(other, "^~")
    server.send(other, "i")
    server.attach("x=0").detach()
    for number in range(1, ROUNDS + 1):
        t.cycle(server.root)
        server.send(shell, "echo $((x += 1)) $(stty size)\r")
        server.expect(shell, rf"^{number} \d+ 80")
        server.send(other, f"line {number}\r")
        server.expect(other, f"line {number}$")
        if number == ROUNDS // 2:
            server.attach(f"{number} ").detach()
    t.compare_cycle(server.root)
    server.attach(f"{ROUNDS} ").detach()
    server.send(other, "\x1b\x1a")
    server.expect(other, "Stopped")
    t.cycle(server.root)
    server.send(other, "fg\r")
    server.expect(other, f"^line {ROUNDS}$")
    server.send(other, ":wq\r")
    t.until(lambda: os.path.exists(t.path("text")), 10, "the text")
    server.expect(other, "shell>$")
    if read(t.path("text")) != "".join(f"line {n}\n" for n in range(1, ROUNDS + 1)) + "\n":
        raise Failure(f"the editor wrote {read(t.path('text'))!r}")
    server.end()
    t.wait_exit(server.root, 10)


@case("tmux-attached", needs=["tmux", "bash"], server=Tmux, options=["--external"], ends="server exited")
@case("screen-attached", needs=["screen", "bash"], server=Screen, options=[], ends="")
def attached(t, server, options, ends):
    """The server is saved while somebody looks: that client has lost it, another one can come."""
    server = server(t)
    server.expect(0, "shell>$")
    server.send(0, "x=11\r")
    client = server.attach("x=11")
    if options:
        refused = t.torpor("dump", server.root, "-o", t.image(), expect=1)
        if "--external" not in refused.err or "client" not in refused.err:
            raise Failure(f"the refusal does not speak of the client and --external: {refused}")
        client.type("echo goes $((x + 1)) on\r")
        client.expect("goes 12 on")
    t.torpor("dump", server.root, "-o", t.image(), *options)
    if ends:
        client.end(ends)
    else:
        t.end(client.pid)  # it looks for its server only every 15 seconds
    t.restore(server.root)
    server.send(0, "echo and $((x + 2))\r")
    server.expect(0, "^and 13$")
    server.attach("and 13").detach()
    t.cycle(server.root)
    server.attach("and 13").detach()
    server.end()
    t.wait_exit(server.root, 10)
