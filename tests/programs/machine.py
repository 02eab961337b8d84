# SPDX-License-Identifier: Apache-2.0
"""The namespaces in which a case runs, so that it has a machine for itself."""

import ctypes
import fcntl
import os
import random
import socket
import struct

from cases import Skip
from procfs import read

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
MS_REC, MS_PRIVATE, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID = 0x4000, 0x40000, 0x1000, 4, 8, 2
FIRST_PIDS = (2000, 28000)  # where the PIDs of a namespace begin: above what the kernel skips once they have gone round


def become_subreaper():
    """Orphans come to us: their PIDs become free as soon as we reap them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def unshare(flags):
    """Returns 0, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.unshare(flags) else 0


def loopback_up():
    with socket.socket() as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def own_network():
    """Go on in a network namespace of our own, with a loopback. Who may do that may keep connections alive."""
    problem = unshare(CLONE_NEWNET)
    if problem:
        raise Skip(f"a network namespace cannot be had: {os.strerror(problem)}")
    loopback_up()


def jvm_folder(account):
    """Where the user's JVMs keep files named by their PIDs, and remove those of PIDs that they do not find."""
    path = f"/tmp/hsperfdata_{account.pw_name}"
    os.makedirs(path, exist_ok=True)
    return path.encode()


def mount_own(account):
    """A /proc of our PID namespace, terminals with numbers of their own, and what else goes by PIDs, for us alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    for source, target, kind, flags, data in (
            (None, b"/", None, MS_REC | MS_PRIVATE, None),
            (b"proc", b"/proc", b"proc", MS_NODEV | MS_NOEXEC | MS_NOSUID, None),
            (b"devpts", b"/dev/pts", b"devpts", MS_NOEXEC | MS_NOSUID, b"newinstance,ptmxmode=0666,mode=0620,gid=5"),
            (b"/dev/pts/ptmx", b"/dev/ptmx", None, MS_BIND, None),
            (b"tmpfs", jvm_folder(account), b"tmpfs", 0, f"uid={account.pw_uid},gid={account.pw_gid},mode=0755".encode())):
        if libc.mount(source, target, kind, flags, data):
            raise OSError(ctypes.get_errno(), f"mounting {target.decode()}")


def begin_pids(pid_max):
    """PIDs as on a machine that has run for a while. A namespace of Linux 6.14 or newer has a pid_max of its own."""
    if read("/proc/sys/kernel/pid_max") != pid_max:
        with open("/proc/sys/kernel/pid_max", "w") as f:
            f.write(pid_max)
    first, last = FIRST_PIDS
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(random.randrange(first, min(last, int(pid_max) - 1000))))


def serve_as_init(pid):
    """What PID 1 has to do until this process has ended."""
    while os.wait()[0] != pid:
        pass
    os._exit(0)


def own_machine(account):
    """Root's cases get PIDs, terminals, IPC ids and a network of their own, so that no two can take each other's.
    Returns in a new process, which is not PID 1; the one that called waits for it and ends with it."""
    pid_max = read("/proc/sys/kernel/pid_max")
    if os.geteuid() != 0 or unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC):
        return
    init = os.fork()
    if init:
        os.waitpid(init, 0)
        os._exit(0)
    mount_own(account)
    loopback_up()
    begin_pids(pid_max)
    pid = os.fork()
    if pid:
        serve_as_init(pid)
    os.setsid()
