#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of the kinds: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

Each program of this folder sets its state up and verifies it from inside (see common.h). How it is compiled, saved
and restored: tests/programs/selfcheck.py.
"""

import fcntl
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import queues  # noqa: E402
import selfcheck  # noqa: E402
import sockets  # noqa: E402
from harness import Failure, Skip, as_user, case  # noqa: E402
from selfcheck import KILLS, Program, restore_refused  # noqa: E402

# Of those that stand for themselves, the name is that of the kind. lock and owner are what any kind may have.
KINDS = """device directory epoll eventfd fanotify gone inotify lock netlink_socket owner path_handle pidfd pipe proc_file
pty regular_file signalfd tcp_connection tcp_socket timerfd udp_socket unix_datagram unix_flight unix_name
unix_pair""".split()

# What refused.c can put at fd 42, and what torpor must say of it.
REFUSED = {
    "timerfd_alarm": "is a timer that can wake up the machine (clock 8)",
    "inotify_events": "has unread events (48 bytes)",
    "inotify_gone": "of which no path was found",
    "pidfd_outside": "which is not in the tree",
    "owner_outside": "(F_SETOWN), which is not in the tree",
    "io_uring": "is an io_uring instance",
    "userfaultfd": "handles page faults",
    "secretmem": "is secret memory",
    "tcp_unaccepted": ") that its listener, which is in the tree, has not accepted yet",
    "tcp_urgent": ") with urgent data",
    "udp_tunnel": "is a UDP socket through which the kernel runs a tunnel (UDP_ENCAP)",
    "udp_corked": "is a UDP socket with a datagram that is not complete",
    "udp_error": "is a UDP socket with an error that the program has not seen yet",
    "netlink_state": "is a netlink socket of protocol 12, behind which the kernel may keep state",
    "netlink_unread": "is a netlink socket with unread messages",
    "mptcp": "is a Multipath TCP socket, at 0.0.0.0:0",
    "vsock": "is a socket for virtual machines and their host (AF_VSOCK)",
    "terminal_line": "is the master of a terminal with line discipline 27",
    "terminal_packet": "is the master of a terminal in packet mode, with an unread event",
    "terminal_unopened": "is the master of a terminal with unread output, whose slave torpor cannot open",
    "unix_outside": "(refused), which is outside the tree (a socket)",
    "unix_waits": "has sent something and waits to be accepted",
    "unix_left": "with a connection that was closed before it was accepted",
    "unix_urgent": "is a unix socket with urgent data (MSG_OOB)",
    "unix_pidfd": "is a unix socket with messages that come with a pidfd of their sender",
    "flying_epoll": "has anon_inode:[eventpoll] in its queue, which watches ",
    "flying_pidfd": "in its queue, which cannot be made again there (pidfd)",
    "message_queue": "is a POSIX message queue that notifies process",
    "lost_name": "has lost that name, and none of its others was found",
    "hidden": "/refused-hidden/work/locked/file) is not found by this path",
    "fanotify_events": "has unread events (fanotify, ",
    "fanotify_mount": "watches a whole mount or file system (fanotify)",
    "gone_handle": "is a handle (O_PATH) of a file that is no longer found by this path",
    "gone_fifo": "is connected to process",
    "foreign_proc": "belongs to process",
    "outside_pipe": "is connected to process",
    "lease_breaking": "holds a lock that cannot be kept (1: LEASE  BREAKING",
}


def refused(t, thing, words):
    program = Program(t, "refused", thing)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    if "fd 42" not in result.err or words not in result.err:
        raise Failure(f"the refusal does not speak of fd 42 and say {words!r}: {result}")
    if os.listdir(t.images):
        raise Failure(f"the refused dump left {os.listdir(t.images)}")
    t.untraced(program.root)
    program.verify("after the refusal")
    program.end()


# ---- what others do while a program sleeps ----

TAKEN = {  # file: how it is taken, what torpor must say
    "exclusive": (lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB), "the lock (flock)"),
    ".": (lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB), "the lock (flock)"),
    "posix": (lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12), "a lock (F_SETLK)"),
    "ofd": (lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0), "a lock (F_OFD_SETLK)"),
    "write lease": (lambda file: None, "the lease"),
}


def lock_taken(t):
    program = Program(t, "lock")
    t.dump(program.root)
    for name, (take, what) in TAKEN.items():
        path = os.path.normpath(t.path(name))
        fd = os.open(path, os.O_RDONLY if name == "." else os.O_RDWR)
        try:
            take(fd)
            result = restore_refused(t, program.root, f"{what} of {path} cannot be had again")
        finally:
            os.close(fd)
        if name == "posix" and f"process {os.getpid()} holds it" not in result.err:
            raise Failure(f"torpor does not say who holds the lock: {result}")
    t.restore(program.root)
    program.verify("after all the failures")
    program.end()


def inotify_replaced(t):
    program = Program(t, "inotify")
    t.dump(program.root)
    os.rename(t.path("place/watched"), t.path("kept"))
    restore_refused(t, program.root, "which is watched, is no longer there")
    t.write("place/watched", "")
    restore_refused(t, program.root, "which is watched, was replaced by another")
    os.rename(t.path("kept"), t.path("place/watched"))
    t.restore(program.root)
    program.verify("after the failures")
    program.end()


# ---- standard streams that lead outside ----

def restore_joined(t, root, stdin, stdout, stderr):
    """Restore with these streams; torpor itself has nothing to say on them."""
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", "--pidfile", os.path.join(t.images, "pid"), stdin=stdin, stdout=stdout, stderr=stderr)
    if not harness.stat_of(root):
        raise Failure(f"{root} is not there after the restore")


def outside_pipes(t):
    ends = [os.pipe() for stream in range(3)]
    program = Program(t, "outside", stdin=ends[0][0], stdout=ends[1][1], stderr=ends[2][1])
    t.dump(program.root)
    for a, b in ends:
        os.close(a)
        os.close(b)
    t.write("in", "a line\n")
    t.write("out", "")
    t.write("err", "")
    with open(t.path("in")) as i, open(t.path("out"), "a") as o, open(t.path("err"), "a") as e:
        restore_joined(t, program.root, i, o, e)
    program.verify("after the restore")
    program.end()
    for name, expected in ("out", "out\nnine\nsecond\n"), ("err", "err\n"):
        if harness.read(t.path(name)) != expected:
            raise Failure(f"std{name} got {harness.read(t.path(name))!r}")


def outside_hidden(t):
    """Standard streams on files in a folder of root's: the program may use them, but nobody may open them again for it."""
    if t.setup.account is None:
        raise Skip("only root has such a folder")
    folder = t.path("hidden")
    os.mkdir(folder, 0o700)
    for name in ("in", "out", "err"):
        t.write(name, "a line\n" if name == "in" else "")
        t.write(f"hidden/{name}", "")
    with open(f"{folder}/in") as i, open(f"{folder}/out", "a") as o, open(f"{folder}/err", "a") as e:
        program = Program(t, "outside", stdin=i, stdout=o, stderr=e)
    t.dump(program.root)
    with open(t.path("in")) as i, open(t.path("out"), "a") as o, open(t.path("err"), "a") as e:
        restore_joined(t, program.root, i, o, e)
    program.verify("after the restore")
    program.end()
    if harness.read(t.path("out")) != "out\nnine\nsecond\n":
        raise Failure(f"stdout got {harness.read(t.path('out'))!r}")


def pipe_external(t):
    """A pipe that leads outside at another fd than the standard streams: refused, or let go."""
    (left, writer), (reader, written) = os.pipe(), os.pipe()
    os.write(writer, b"left")
    program = Program(t, "pipe_external", f"{left} {written}", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL, pass_fds=(left, written))
    os.close(left)
    os.close(written)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    for fd in (left, written):
        if not re.search(rf"fd {fd} \(pipe:.* is connected to a process outside the tree.*--external", result.err):
            raise Failure(f"the refusal does not speak of fd {fd} and --external: {result}")
    program.verify("after the refusal")
    t.torpor("dump", program.root, "-o", t.image(), "--external")
    os.close(writer)
    t.restore(program.root)
    t.write("let go", "")
    program.verify("after the restore")
    program.end()
    os.close(reader)


def make_terminal(t):
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    t.setup.own(os.ttyname(slave))
    return master, slave


def outside_terminal(t):
    master, slave = make_terminal(t)
    program = Program(t, "outside", "terminal", stdin=slave, stdout=slave, stderr=slave)
    t.dump(program.root)
    os.close(slave)
    os.close(master)
    master, slave = make_terminal(t)
    restore_joined(t, program.root, slave, slave, slave)
    os.write(master, b"a line\n")
    program.verify("after the restore")
    program.end()
    got = os.read(master, 1000).decode()
    if got != "out\nnine\nerr\nsecond\n":
        raise Failure(f"the terminal got {got!r}")


# ---- pseudo-terminals of the tree ----

def terminals_of(root):
    """The numbers of the terminals that a task has open and that are not hung up."""
    links = [os.readlink(f"/proc/{root}/fd/{fd}") for fd in os.listdir(f"/proc/{root}/fd")]
    return sorted({int(link[9:]) for link in links if link.startswith("/dev/pts/") and link[9:].isdigit()})


def pty_renumbered(t):
    """Somebody has taken the numbers of some of its terminals meanwhile."""
    program = Program(t, "pty")
    before = terminals_of(program.root)
    t.dump(program.root)
    others = [pty.openpty() for number in range(3)]
    taken = [int(os.ttyname(slave)[9:]) for _, slave in others]
    if not set(taken) & set(before):
        raise Failure(f"the terminals {taken} are not among {before}")
    t.restore(program.root)
    after = terminals_of(program.root)
    if len(after) != len(before) or set(after) & set(taken):
        raise Failure(f"the terminals {before} became {after} while {taken} were taken")
    program.verify("under other numbers")
    for end in sum(others, ()):
        os.close(end)
    t.cycle(program.root)
    program.verify("after another cycle")
    program.end()


def stop_and_kill(t, pid):
    """Kill torpor, if it is still there. Returns its PID and that of the process that it may have made."""
    try:
        os.kill(pid, signal.SIGSTOP)
        t.until(lambda: t.stands_still(pid), 10, "torpor does not stop")
        torpor = harness.tree_of(pid)
        os.kill(pid, signal.SIGKILL)
        return torpor
    except ProcessLookupError:
        return []


def pty_killed(t):
    """torpor is killed while it looks: what was typed, written and stopped is still there."""
    program = Program(t, "pty")
    took = t.torpor("check", program.root).seconds
    before = terminals_of(program.root)
    for number in range(4 * harness.ROUNDS):
        pid, call = t.torpor_start(["check", program.root])
        time.sleep(random.uniform(0.1, 1) * took)
        torpor = stop_and_kill(t, pid)
        t.until(lambda: not any(map(harness.stat_of, torpor)), 10, "the end of the process that looks into terminals")
        t.log(f"killed a torpor of {len(torpor)} processes")
        program.verify(f"after kill {number + 1}")
    if terminals_of(program.root) != before:
        raise Failure(f"the terminals {before} became {terminals_of(program.root)}")
    program.end()


TIOCGLCKTRMIOS, TIOCSLCKTRMIOS, LOCKED = 0x5456, 0x5457, b"\xff" * 36


def pty_locked_modes(t):
    """Only the privileged can lock modes, so it is not the program that does."""
    if os.geteuid() != 0 or t.setup.tier in ("userns", "fork"):
        raise Skip("only the privileged can lock the modes of a terminal")
    program = Program(t, "pty")

    def with_terminals(function):
        for number in terminals_of(program.root):
            fd = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                function(fd, number)
            finally:
                os.close(fd)

    def check_locked(fd, number):
        now = fcntl.ioctl(fd, TIOCGLCKTRMIOS, bytes(36))
        if now != LOCKED:
            raise Failure(f"the locked modes of /dev/pts/{number} are {now}")

    with_terminals(lambda fd, number: fcntl.ioctl(fd, TIOCSLCKTRMIOS, LOCKED))
    program.verify("with locked modes")
    t.cycle(program.root)
    with_terminals(check_locked)
    program.verify("after the restore")
    program.end()


# ---- what is made on disk for a moment ----

def on_disk(t):
    """What a restore must not leave behind."""
    return set(os.listdir(t.work))


def sockets_aside(t):
    """The folders in which sockets are bound whose path does not lead to them."""
    return {name for name in os.listdir("/tmp") if name.startswith("torpor-socket-")}


def killed_on_disk(t, kind, look):
    """What has no name gets one for a moment when it is made again; torpor is killed then, and before and after."""
    if look == sockets_aside and (harness.unshare(harness.CLONE_NEWNS) or
                                  subprocess.run("mount --make-rprivate / && mount -t tmpfs none /tmp", shell=True).returncode):
        raise Skip("no folder /tmp of its own")
    program = Program(t, kind)
    t.dump(program.root)
    before, root = look(t), program.root
    t.restore(root)
    program.kill()
    took, killed = t.torpor("restore", t.image(), "--detach").seconds, 0
    program.kill()
    for number in range(KILLS):
        pid, call = t.torpor_start(["restore", t.image(), "--detach"])
        time.sleep(random.uniform(0, took))
        if pid not in t.statuses and harness.stat_of(pid):
            os.kill(pid, signal.SIGKILL)
        if t.wait_exit(pid) == -signal.SIGKILL:
            killed += 1
        else:
            took *= 0.9  # it was measured when more went on
        if harness.stat_of(root):
            program.kill()
        t.until(lambda: look(t) == before, 5, f"kill {number + 1} left {look(t) ^ before}")
    if killed < KILLS / 4:
        raise Failure(f"only {killed} of {KILLS} restores were killed")
    t.restore(root)
    program.verify("after all the kills")
    program.end()


def gone_failed(t):
    """A restore that fails at its very end."""
    program = Program(t, "gone")
    t.dump(program.root)
    before = on_disk(t)
    t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", expect=None)
    t.until(lambda: not harness.stat_of(program.root), 10, "the end of the failed restore's tasks")
    if on_disk(t) != before:
        raise Failure(f"the failed restore left {on_disk(t) ^ before}")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


# ---- file systems whose numbers differ ----

# What compares inode and device numbers, and is tried on overlayfs too, whose stat(2) shows others than the kernel's.
OVERLAID = "directory fanotify gone inotify lock path_handle pipe regular_file unix_name".split()


def overlaid(t, kind):
    """In a folder of overlayfs, with layers of two file systems."""
    layers = os.path.join(t.base, "layers")
    os.mkdir(layers)
    if os.geteuid() != 0 or harness.unshare(harness.CLONE_NEWNS):
        raise Skip("nothing can be mounted")
    for command in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "none", layers],
                    ["mkdir", f"{layers}/upper", f"{layers}/work", f"{t.base}/lower"],
                    ["mount", "-t", "overlay", "overlay", "-o",
                     f"lowerdir={t.base}/lower,upperdir={layers}/upper,workdir={layers}/work", t.work]):
        if subprocess.run(command).returncode:
            raise Skip(f"{' '.join(command)} is not possible")
    t.setup.own(t.work)
    selfcheck.plain(t, kind)


MASKED = ["gone", "message_queue", "unix_datagram", "unix_name"]  # they make files


def masked(t, kind):
    """What a restore makes has the mode that it had, whatever its caller masks for new files."""
    program = Program(t, kind)
    t.dump(program.root)
    t.launcher = [*as_user(t), "sh", "-c", 'umask 777; exec "$@"', "sh"]
    t.restore(program.root)
    t.launcher = []
    program.verify("after the restore")
    program.end()


def declare():
    for kind in KINDS:
        selfcheck.declare(kind)
    sockets.declare()
    for kind in OVERLAID:
        case(f"{kind}-overlaid", kind=kind)(overlaid)
    for kind in MASKED:
        case(f"{kind}-masked", kind=kind, needs=["setpriv"])(masked)
    queues.declare()
    case("outside-pipes")(outside_pipes)
    case("outside-terminal")(outside_terminal)
    case("outside-hidden")(outside_hidden)
    case("pipe-external")(pipe_external)
    case("pty-renumbered")(pty_renumbered)
    case("pty-killed")(pty_killed)
    case("pty-locked-modes")(pty_locked_modes)
    case("lock-taken")(lock_taken)
    case("inotify-replaced")(inotify_replaced)
    case("gone-killed", kind="gone", look=on_disk)(killed_on_disk)
    case("unix_name-killed", kind="unix_name", look=sockets_aside)(killed_on_disk)
    case("gone-failed")(gone_failed)
    for thing, words in REFUSED.items():
        case(f"refused-{thing}", thing=thing, words=words)(refused)


if __name__ == "__main__":
    declare()
    sys.exit(selfcheck.main(HERE, __doc__))
