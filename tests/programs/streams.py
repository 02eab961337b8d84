# SPDX-License-Identifier: Apache-2.0
"""Restores in the foreground, standard streams at pipes, terminals."""

import fcntl
import os
import signal
import struct
import termios
import time

from dialogues import Terminal, dialogue, expect_status, restore_at_pipes
from harness import PYTHON, Failure, as_user, case, kill, read, stat_of

SYS_READ = 0


@case("foreground-status")
def status(t):
    """The exit status of the program becomes that of torpor restore."""
    root = t.start(["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; exit 42"])
    time.sleep(0.1)
    t.dump(root)
    pid, _ = t.torpor_start(["restore", t.image()])
    t.expect_restored(root, pid)
    time.sleep(0.2)
    if pid in t.statuses:
        raise Failure(f"torpor restore did not wait: {t.statuses[pid]}, {t.errors(t.calls)}")
    t.write("go", "")
    expect_status(t, pid, 42)
    t.until(lambda: not stat_of(root), 5, "the end of the program")


@case("foreground-children-ignored", needs=["setpriv"])
def children_ignored(t):
    """The same, started by somebody who ignores SIGCHLD: the kernel would tell torpor of no child then."""
    t.launcher = [*as_user(t), "env", "--ignore-signal=CHLD"]
    status(t)


@case("foreground-signals")
def signals(t):
    """Signals to torpor restore reach the program; a program killed by a signal shows in the status."""
    root, talk = dialogue(t)
    t.dump(root)
    pid, talk = restore_at_pipes(t)
    talk.send("hello\n")
    talk.expect("1:hello\n")
    time.sleep(0.2)
    os.kill(pid, signal.SIGINT)
    talk.expect("interrupted\n")
    os.kill(pid, signal.SIGTERM)
    talk.expect("terminated\n")
    expect_status(t, pid, 9)

    root = t.start(["sleep", "60"])
    time.sleep(0.1)
    t.dump(root)
    pid, _ = t.torpor_start(["restore", t.image()])
    t.expect_restored(root, pid)
    time.sleep(0.2)
    kill(root, signal.SIGKILL)
    expect_status(t, pid, 128 + signal.SIGKILL, -signal.SIGKILL)


@case("streams-pipes")
def pipes(t):
    """Standard streams that led to pipes outside the tree are joined to those of the restoring command."""
    root, talk = dialogue(t)
    talk.send("a\n")
    talk.expect("1:a\n")
    t.dump(root)
    for number in range(2, 5):
        pid, talk = restore_at_pipes(t)
        talk.send(f"word{number}\n")
        talk.expect(f"{number}:word{number}\n")
        t.expect_restored(root, pid)
        t.dump(root)
        t.wait_exit(pid, 20)
    pid, talk = restore_at_pipes(t)
    os.close(talk.write_fd)
    talk.expect("end\n")
    expect_status(t, pid, 5)


@case("streams-fd-option")
def fd_option(t):
    """--fd says otherwise: null, a file, or inherit."""
    root, talk = dialogue(t)
    t.dump(root)
    out = t.write("answers", "")
    pid, _ = t.torpor_start(["restore", t.image(), "--fd", "0=null", "--fd", f"1={out}"])
    expect_status(t, pid, 5)
    with open(out) as f:
        if f.read() != "end\n":
            raise Failure(f"{out} does not hold what the program said")
    pid, talk = restore_at_pipes(t, "--fd", "0=inherit", "--fd", "1=inherit")
    talk.send("exit 3\n")
    expect_status(t, pid, 3)


def restoring(t, name="image"):
    """The command that is typed to restore an image."""
    return " ".join(t.command("restore", t.image(name)))


def move_to_another_terminal(t, target, typed, answer):
    """Start a program from a shell on one terminal, talk to it, save it, and restore it from a shell on another."""
    first = Terminal(t)
    first.send(f"{PYTHON} {t.target(target)}; echo it is over\n")
    first.expect("ready\r\n")
    first.send(typed)
    first.expect(answer)
    root = t.until(lambda: [p for p in t.shape(first.shell) if p != first.shell], 5, "the program")[0]
    # Python notices a signal that comes just before that only with the next input.
    t.until(lambda: read(f"/proc/{root}/syscall", "").startswith(f"{SYS_READ} "), 5, "the program that waits in read(2)")
    t.torpor("dump", root, "-o", t.image())
    first.expect("it is over\r\n")
    t.until(lambda: not stat_of(root), 5, "the end of the program")
    second = Terminal(t)
    second.send(f"{restoring(t)}; echo status=$?\n")
    return first, second, root


@case("terminal")
def terminal(t):
    """Started from a shell on one terminal, restored from a shell on another: it reads a line typed there."""
    first, second, root = move_to_another_terminal(t, "dialogue.py", "one\n", "1:one\r\n")
    t.expect_restored(root, second.shell)
    second.send("two\n")
    second.expect("2:two\r\n")
    time.sleep(0.2)  # until it waits in read(2): Python notices a signal just before that only at the next line
    second.send("\x03")
    second.expect("interrupted\r\n")
    second.send("three\n")
    second.expect("3:three\r\n")
    t.torpor("dump", root, "-o", t.image("again"))
    second.expect(r"status=\d+\r\n")
    second.send(f"{restoring(t, 'again')}; echo status=$?\n")
    t.expect_restored(root, second.shell)
    second.send("four\n")
    second.expect("4:four\r\n")
    second.send("exit 6\n")
    second.expect(r"status=6\r\n")
    for one in (first, second):
        one.close(t)


@case("terminal-modes")
def terminal_modes(t):
    """A program that reads single keys finds the terminal in that mode again, and is told to draw anew."""
    first, second, _ = move_to_another_terminal(t, "keys.py", "a", "key a\r\n")
    second.expect("drawn\r\n")
    second.send("b")
    second.expect("key b\r\n")
    second.send("q")
    second.expect("status=4\r\n")
    second.close(t)
    first.close(t)


@case("terminal-job-control")
def job_control(t):
    """The restored program is the foreground job of the shell: it can be stopped and continued."""
    first = Terminal(t)
    first.send(f"{PYTHON} {t.target('dialogue.py')}\n")
    first.expect("ready\r\n")
    root = t.until(lambda: [p for p in t.shape(first.shell) if p != first.shell], 5, "the program")[0]
    t.torpor("dump", root, "-o", t.image())
    first.expect("shell> ")
    t.until(lambda: not stat_of(root), 5, "the end of the program")
    first.send(f"{restoring(t)}\n")
    t.expect_restored(root, first.shell)
    first.send("one\n")
    first.expect("1:one\r\n")
    first.send("\x1a")
    first.expect("Stopped")
    first.expect("shell> ")
    first.send("fg\n")
    first.expect("restore")
    first.send("two\n")
    first.expect("2:two\r\n")
    first.send("exit 0\n")
    first.expect("shell> ")
    first.close(t)


def job_of(shell):
    """What the shell says of its job."""
    shell.send("jobs\n")
    state = shell.expect(r"\[1\]\S* +(\w+)").group(1)
    shell.expect("shell> ")
    return state


def resize(terminal, columns):
    fcntl.ioctl(terminal.write_fd, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))


@case("terminal-signals")
def terminal_signals(t):
    """What the keys and the shell send arrives, and once; in the background it may not read; it ends with its terminal."""
    first, second, root = move_to_another_terminal(t, "signals.py", "\n", "in all .*\r\n")
    t.expect_restored(root, second.shell)
    second.send("\n")
    begun = int(second.expect(r"in all 0 0 0 0 0 (\d+)\r\n").group(1))  # the restore itself sends SIGWINCH
    for number in 1, 2:
        second.send("\x03")
        second.expect(f"SIGINT {number}\r\n")
        second.send("\x1c")
        second.expect(f"SIGQUIT {number}\r\n")
        resize(second, 80 + number)
        second.expect(f"SIGWINCH {begun + number}\r\n")
        second.send("\x1a")
        second.expect("Stopped")
        second.expect("shell> ")
        second.send("bg\n")
        second.expect("shell> ")
        t.until(lambda: job_of(second) == "Stopped", 10, "the stop of a program that reads from the background", pause=0.05)
        if os.tcgetpgrp(second.read_fd) != second.shell:
            raise Failure("it took the terminal from the shell")
        second.send("kill -USR1 %1; fg\n")
        second.expect(f"SIGUSR1 {number}\r\n")
    time.sleep(0.1)  # what came twice would be there by now
    second.send("\n")
    second.expect(rf"in all 0 2 2 0 2 {begun + 2}\r\n")
    kill(root, signal.SIGKILL)
    second.expect("shell> ")
    second.send("echo status=$?\n")
    second.expect("status=137\r\n")
    second.send(f"{restoring(t)}\n")
    t.expect_restored(root, second.shell)
    second.send("\n")
    second.expect("in all")
    os.close(second.read_fd)
    t.until(lambda: not stat_of(root), 10, "the end of the program with its terminal")
    t.wait_exit(second.shell)
    first.close(t)
