# SPDX-License-Identifier: Apache-2.0
"""What the tests of real programs have in common.

A case is a function decorated with @case that gets a Context. It starts real
programs as an ordinary user, puts them to sleep with torpor and wakes them up,
and raises Failure when anything is not as it was.

The protocol of the programs in targets/: each has its work folder as current
folder, appends lines `LABEL NUMBER` to the file `steps` (opened anew for every
line, so that the file may be moved away while a program sleeps), counts every
label from 1 without a gap, appends `bad REASON` when it finds its own state
wrong, and when a file `stop` appears it checks everything it holds, appends
`done` and exits with 0.

How `--keep-running` is tested: the original runs on and is then put to sleep
for good into a second image. The steps file is moved away and the copy is woken
up: its steps must continue from the moment of the dump. Then the original is
woken up again, with the files it had.
"""

import ctypes
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TARGETS = os.path.join(HERE, "targets")
PYTHON = "/usr/bin/python3"
ROUNDS = int(os.environ.get("TORPOR_TEST_ROUNDS", "10"))
SLOWER = float(os.environ.get("TORPOR_TEST_SLOWER", "1"))  # factor on all time limits
ENVIRONMENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

JOBS = int(os.environ.get("TORPOR_TEST_JOBS", "1"))
SNATCHED = 3  # tries of a restore in tier fork

PR_SET_CHILD_SUBREAPER = 36


class Failure(Exception):
    """The case does not hold; the text says why."""


class Skip(Exception):
    """The case cannot be tried on this machine; the text says why."""


class Case:
    def __init__(self, name, function, needs, limit, shares_machine):
        self.name, self.function, self.needs, self.limit = name, function, needs, limit
        self.shares_machine = shares_machine  # it looks at processes that are not its own

    def missing(self):
        return [p for p in self.needs if not shutil.which(p, path=ENVIRONMENT_PATH)]


CASES = []


def case(name, needs=(), limit=120, shares_machine=False, **arguments):
    """Declare a case. Arguments beyond these are handed to the function."""
    def register(function):
        CASES.append(Case(name, lambda t: function(t, **arguments), needs, limit * SLOWER,
                          shares_machine))
        return function
    return register


def become_subreaper():
    """Orphans come to us: their PIDs become free as soon as we reap them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
MS_REC, MS_PRIVATE, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID = 0x4000, 0x40000, 0x1000, 4, 8, 2
FIRST_PIDS = (2000, 28000)  # where the PIDs of a namespace begin: above what the kernel skips once they have gone round


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
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(random.randrange(*FIRST_PIDS)))


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


# ---- /proc ----

class Stat:
    """The fields of /proc/PID/stat that matter here."""

    def __init__(self, text):
        self.comm = text[text.index("(") + 1:text.rindex(")")]
        rest = text[text.rindex(")") + 2:].split()
        self.state = rest[0]
        self.ppid, self.pgrp, self.session = int(rest[1]), int(rest[2]), int(rest[3])
        self.flags = int(rest[6])
        self.nice = int(rest[16])
        self.policy = int(rest[38])


def read(path, default=None):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return default


class View:
    """Whose /proc we look at: ours, or that of the PID namespace in which a tree of tier userns lives.

    Its tasks have the same PIDs there as before, so that what is compared need not know of it."""
    init = root = None  # PID of its init, out here, and of the tree's root, in there


def proc(path=""):
    return f"/proc/{View.init}/root/proc/{path}" if View.init else f"/proc/{path}"


def outside(pid):
    """The PID out here of a task that has this one where we look."""
    if not View.init:
        return pid
    for folder in os.listdir("/proc"):
        if not folder.isdigit() or not re.search(rf"^NSpid:.*\t{pid}$", read(f"/proc/{folder}/status", ""), re.M):
            continue
        try:
            if os.stat(f"/proc/{folder}/ns/pid").st_ino == os.stat(f"/proc/{View.init}/ns/pid").st_ino:
                return int(folder)
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise ProcessLookupError(f"{pid} is not in the namespace of {View.init}")


def kill(pid, signo):
    os.kill(outside(pid), signo)


def inside(pid):
    """The PID that a process has in its own namespace."""
    return int(re.search(r"^NSpid:.*?(\d+)$", read(f"/proc/{pid}/status", ""), re.M).group(1))


def stat_of(pid):
    text = read(proc(f"{pid}/stat"))
    return Stat(text) if text else None


def all_stats():
    try:
        stats = {int(p): stat_of(p) for p in os.listdir(proc()) if p.isdigit()}
    except FileNotFoundError:  # it is gone, and all in it
        return {}
    return {p: s for p, s in stats.items() if s}


def tree_of(root, stats=None):
    """The PIDs of root and all that descend from it, parents first."""
    stats = stats or all_stats()
    found = [root] if root in stats else []
    for pid in found:
        found += sorted(p for p, s in stats.items() if s.ppid == pid)
    return found


def threads_of(pid):
    try:
        return sorted(int(t) for t in os.listdir(proc(f"{pid}/task")))
    except (FileNotFoundError, ProcessLookupError):
        return []


# ---- the portrait of a tree that stands still ----

STATUS_KEYS = """Name Umask Tgid Pid TracerPid Uid Gid Groups Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm
CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters Cpus_allowed THP_enabled""".split()
# Of VmFlags, those that a program set, not those that the kernel derives.
VM_FLAGS = set("gd lo io sr rr dc de nr ht wf dd hg nh mg mt".split())
# Within these system calls (rt_sigsuspend, pselect6, ppoll, epoll_pwait, epoll_pwait2) the signal mask is another.
MASKING_CALLS = "130 270 271 281 441".split()
TEMPORARY = "a temporary mask"
SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)
PROC_FILES = "cmdline environ auxv limits personality oom_score_adj coredump_filter".split()


def parse_smaps(text):
    """[start, end, perms, offset, dev, inode, name, flags] of each mapping, neighbours that are alike merged."""
    rows = []
    for line in text.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+) *(.*)$", line)
        if head:
            start, end, perms, offset, dev, inode, name = head.groups()
            rows.append([int(start, 16), int(end, 16), perms, int(offset, 16), dev, inode, name, ""])
        elif line.startswith("VmFlags:"):
            rows[-1][7] = " ".join(sorted(set(line.split()[1:]) & VM_FLAGS))
    merged = []
    for row in rows:
        normalize_mapping(row)
        last = merged[-1] if merged else None
        if (last and last[1] == row[0] and last[2] == row[2] and last[4:] == row[4:]
                and (row[5] == "0" or last[3] + (last[1] - last[0]) == row[3])):
            last[1] = row[1]
        else:
            merged.append(row)
    for row in merged:
        if row[6] == "[stack]":
            row[0] = 0  # it may have grown
    return [describe_mapping(r) for r in merged]


def normalize_mapping(row):
    if row[6].endswith(" (deleted)"):
        row[4] = row[5] = "-"
        if not row[6].startswith(("/memfd:", "/dev/zero")):
            row[6] = "(deleted)"


def describe_mapping(row):
    return "%x-%x %s %x %s %s %s [%s]" % tuple(row)


class Names:
    """Gives the inode numbers of pipes and sockets small names: they may differ, who shares them may not."""

    def __init__(self):
        self.known = {}

    def plain(self, link):
        numbered = re.match(r"(pipe|socket):\[\d+\]$", link)
        if numbered:
            return f"{numbered.group(1)} {self.known.setdefault(link, len(self.known))}"
        if link.endswith(" (deleted)") and not link.startswith("/memfd:"):
            return "(deleted)"
        return link


SHOWN = "pos flags eventfd-count eventfd-semaphore sigmask Pid clockid it_interval".split() + ["settime flags"]


def portrait_fds(pid, names):
    fds = {}
    for fd in sorted(os.listdir(proc(f"{pid}/fd")), key=int):
        link = names.plain(os.readlink(proc(f"{pid}/fd/{fd}")))
        info = []
        for line in read(proc(f"{pid}/fdinfo/{fd}")).splitlines():
            key = line.split(":")[0].strip()
            if key in SHOWN or key.startswith("inotify"):
                info.append(" ".join(line.split()))
            elif key == "tfd":
                info.append(" ".join(line.split(" pos:")[0].split()))
            elif key == "lock":  # without its number, holder and inode
                info.append(" ".join(["lock", *line.split()[2:5], *line.split()[-2:]]))
        fds[f"fd {fd}"] = link + " | " + ", ".join(sorted(info))
    return fds


def portrait_task(pid, root, names):
    stat = stat_of(pid)
    about = {"group": stat.pgrp, "session": stat.session, "state": stat.state, "nice": stat.nice,
             "policy": stat.policy}
    if pid != root:
        about["parent"] = stat.ppid
    if stat.state == "Z":
        return about
    about["owner of /proc/PID"] = os.stat(proc(f"{pid}/environ")).st_uid
    for name in PROC_FILES:
        about[name] = read(proc(f"{pid}/{name}"))
    for name in ("exe", "cwd", "root"):
        about[name] = os.readlink(proc(f"{pid}/{name}"))
    for mapping in parse_smaps(read(proc(f"{pid}/smaps"))):
        about["map " + mapping] = True
    about.update(portrait_fds(pid, names))
    for tid in threads_of(pid):
        about.update(portrait_thread(pid, tid))
    return about


def portrait_thread(pid, tid):
    status = {}
    for line in read(proc(f"{pid}/task/{tid}/status")).splitlines():
        key, _, value = line.partition(":")
        if key in STATUS_KEYS:
            status[key] = " ".join(value.split())
    call = read(proc(f"{pid}/task/{tid}/syscall"), "").split(" ")[0]
    pending = int(status["ShdPnd"], 16)
    # Stopping its children sent it a SIGCHLD: it is pending, or the handler is about to run with a mask of its own.
    if call in MASKING_CALLS or pending & SIGCHLD_BIT:
        status["SigBlk"] = TEMPORARY
    status["ShdPnd"] = f"{pending & ~SIGCHLD_BIT:016x}"
    return {f"thread {tid} {key}": value for key, value in status.items()}


def portrait(root):
    names = Names()
    return {pid: portrait_task(pid, root, names) for pid in tree_of(root)}


def differences(before, after):
    found = []
    for pid in sorted(set(before) | set(after)):
        a, b = before.get(pid), after.get(pid)
        if a is None or b is None:
            found.append(f"task {pid}: " + ("is new" if a is None else "is missing"))
            continue
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key) and a.get(key) != TEMPORARY:
                found.append(f"task {pid}: {key}: before {a.get(key)!r}, after {b.get(key)!r}")
    return found


# ---- files that several cases use ----

def made_once(path, make):
    """A file or folder that the first case which needs it makes, by make(path). Several may come first at once."""
    if not os.path.exists(path):
        fresh = f"{path}.{os.urandom(4).hex()}"
        make(fresh)
        try:
            os.rename(fresh, path)
        except OSError:
            shutil.rmtree(fresh)  # another one was quicker, and its folder is not empty
    return path


def compiled_once(path, source, *options):
    def make(fresh):
        done = subprocess.run([os.environ.get("CC", "cc"), *options, "-o", fresh, source], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"compiling {source}: {done.stderr}")
    return made_once(path, make)


# ---- files that are put back ----

class Snapshot:
    """The files below some folders: content, time and inode, to put them back as they were.

    A second link keeps each inode alive when a program removes the file."""

    def __init__(self, context, paths):
        self.context, self.files, self.folders, self.stores = context, {}, [], []
        for path in paths:
            if os.path.isdir(path):
                for folder, _, names in os.walk(path):
                    self.folders.append(folder)
                    for name in names:
                        self.add(os.path.join(folder, name))
            elif os.path.exists(path):
                self.add(path)

    def add(self, path):
        info = os.lstat(path)
        if not os.path.isfile(path) or os.path.islink(path):
            return
        kept = self.link(path)
        with open(path, "rb") as f:
            self.files[path] = (kept, f.read(), info)

    def link(self, path):
        for near in (self.context.base, os.path.dirname(path)):
            store = os.path.join(near, f"torpor-kept-{os.getpid()}-{id(self):x}")
            try:
                os.makedirs(store, exist_ok=True)
                if store not in self.stores:
                    self.stores.append(store)
                kept = os.path.join(store, str(len(self.files)))
                os.link(path, kept)
                return kept
            except OSError as e:
                problem = e
        raise problem

    def put_back(self):
        for folder in self.folders:
            os.makedirs(folder, exist_ok=True)
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and path not in self.files:
                    os.unlink(path)
        for path, (kept, content, info) in self.files.items():
            if not os.path.exists(path) or os.stat(path).st_ino != info.st_ino:
                if os.path.lexists(path):
                    os.unlink(path)
                os.link(kept, path)
            with open(path, "rb") as f:
                changed = f.read() != content
            if changed:
                with open(path, "r+b") as f:
                    f.truncate(0)
                    f.write(content)
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def drop(self):
        for store in self.stores:
            shutil.rmtree(store, ignore_errors=True)


# ---- what a case works with ----

class Result:
    def __init__(self, argv, status, out, err, seconds):
        self.argv, self.status, self.out, self.err, self.seconds = argv, status, out, err, seconds

    def __str__(self):
        return f"status {self.status}: {(self.err or self.out).strip()[-1500:] or 'no output'}"


def wait_status(status):
    """As a shell would see it, but negative when a signal ended it."""
    return os.waitstatus_to_exitcode(status)


class Setup:
    """The binary, the user and the folder that all cases of a run share."""

    def __init__(self, folder, binary, account):
        self.folder, self.binary, self.account = folder, binary, account
        self.dumper = binary  # may be a copy without any capability
        self.capable = binary  # never is
        self.tier = None

    def work_with_capability(self):
        """As a run without any option does."""
        self.binary = self.dumper = self.capable
        self.tier = None

    def give_up_capability(self):
        """From now on, torpor is a copy without any capability."""
        path = os.path.join(self.folder, "bin", "plain")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            shutil.copyfile(self.binary, path)  # not its capability
            os.chmod(path, 0o755)
        self.binary = self.dumper = path

    def work_in(self, tier):
        """Restore in this tier; without any capability where it needs none."""
        self.tier = tier
        if tier in ("userns", "fork"):
            self.give_up_capability()

    def user_arguments(self):
        if self.account is None:
            return {}
        groups = os.getgrouplist(self.account.pw_name, self.account.pw_gid)
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": groups}

    def environment(self):
        name = self.account.pw_name if self.account else os.environ.get("USER", "nobody")
        home = self.account.pw_dir if self.account else os.environ.get("HOME", "/")
        return {"PATH": ENVIRONMENT_PATH, "HOME": home, "USER": name, "LOGNAME": name, "LANG": "C.UTF-8",
                # A process that becomes another program's is not one to look for leaks in.
                "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}

    def own(self, path):
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)


class Context:
    """One case at work. Its process is a subreaper, so every process of the case is below it."""

    def __init__(self, setup, name):
        self.launcher = []  # a command that runs torpor
        self.setup, self.name = setup, name
        self.base = os.path.join(setup.folder, name)
        self.work = os.path.join(self.base, "work")
        self.images = os.path.join(self.base, "images")
        self.logs = os.path.join(self.base, "logs")
        for folder in (self.base, self.work, self.images, self.logs):
            os.makedirs(folder)
            setup.own(folder)
        self.journal = open(os.path.join(self.logs, "journal"), "w", buffering=1)
        self.began = time.monotonic()
        self.statuses = {}
        self.calls = 0

    def log(self, text):
        self.journal.write(f"{time.monotonic() - self.began:8.3f} {text}\n")

    # -- processes --

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.statuses[pid] = wait_status(status)
            if pid == View.init:  # it ended as the root did
                code = self.statuses[pid]
                self.statuses[View.root] = 128 - code if code > 128 else code

    def until(self, condition, seconds, what, pause=0.002):
        """The value of condition() once it is true; a Failure after some seconds."""
        end = time.monotonic() + seconds * SLOWER
        while True:
            self.reap()
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise Failure(f"timed out after {seconds * SLOWER:g} s: {what}")
            time.sleep(pause)

    def popen(self, argv, stdin, stdout, stderr, session=True, environment=None, user=True, cwd=None,
              pass_fds=()):
        env = self.setup.environment()
        env["TMPDIR"] = env["PWD"] = self.work
        env.update(environment or {})
        as_user = self.setup.user_arguments() if user else {}
        process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd or self.work, env=env,
                                   start_new_session=session, umask=0o022, pass_fds=pass_fds, **as_user)
        self.statuses.pop(process.pid, None)
        process.returncode = 0  # reap() waits for it, not subprocess
        return process.pid

    def output(self, name):
        """A file in the logs folder, open for appending, that the user could open as well."""
        path = os.path.join(self.logs, name)
        file = open(path, "ab")
        self.setup.own(path)
        return file

    def start(self, argv, **arguments):
        """Start a program with its standard streams on files. Returns its PID."""
        View.init = None
        with self.output("stdout") as out, self.output("stderr") as err:
            pid = self.popen(argv, subprocess.DEVNULL, out, err, **arguments)
        self.log(f"started {pid}: {' '.join(argv)}")
        return pid

    def wait_exit(self, pid, seconds=60):
        if View.init and pid == View.root:
            # Its init tells how it ended when nobody lives there any more.
            self.until(lambda: pid in self.statuses or stat_of(pid) is None, seconds, f"the end of {pid}")
            for other in set(all_stats()) - {1}:
                kill(other, signal.SIGKILL)
        self.until(lambda: pid in self.statuses, seconds, f"the end of {pid}")
        return self.statuses[pid]

    def end(self, pid):
        """End one process and wait for it, if it is still there."""
        if stat_of(pid):
            kill(pid, signal.SIGKILL)
            self.until(lambda: not stat_of(pid), 10, f"the end of {pid} after SIGKILL")

    def end_all(self):
        """End every process below this one."""
        View.init = None
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.reap()
            rest = tree_of(os.getpid())[1:]
            if not rest:
                return
            for pid in rest:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)
        self.log(f"could not end {rest}")

    # -- torpor --

    def command(self, *arguments):
        """The command line of torpor with these arguments, as this run has it."""
        command = arguments[0] if arguments else None
        if View.init and command in ("dump", "check"):
            arguments = [command, outside(arguments[1]), *arguments[2:]]
        binary = self.setup.dumper if command == "dump" else self.setup.binary
        tier = ["--tier", self.setup.tier] if command == "restore" and self.setup.tier else []
        return [*self.launcher, binary, *map(str, arguments), *tier]

    def torpor_start(self, arguments, stdin=subprocess.DEVNULL, stdout=None, stderr=None, **more):
        self.calls += 1
        argv = self.command(*arguments)
        if "restore" in arguments[:1]:
            View.init = None
        if self.launcher:
            more["user"] = False  # it becomes the user itself
        with self.output(f"{self.calls}.out") as out, self.output(f"{self.calls}.err") as err:
            pid = self.popen(argv, stdin, stdout or out, stderr or err, **more)
        self.log(f"call {self.calls}: torpor {' '.join(argv[1:])}")
        return pid, self.calls

    def torpor_result(self, pid, call, arguments, began, seconds=60):
        try:
            status = self.wait_exit(pid, seconds)
        except Failure:
            for thread in threads_of(pid):
                self.log(f"torpor thread {thread}: {read(f'/proc/{pid}/task/{thread}/stack', '')!r}")
            self.end(pid)
            raise Failure(f"torpor {' '.join(map(str, arguments))} hung: {self.errors(call)}")
        result = Result(arguments, status, read(f"{self.logs}/{call}.out", ""), self.errors(call),
                        time.monotonic() - began)
        self.log(f"call {call}: {result.seconds * 1000:.1f} ms, {result}")
        return result

    def errors(self, call):
        return read(f"{self.logs}/{call}.err", "")

    def torpor(self, *arguments, expect=0, seconds=60, **more):
        """Run torpor to its end; a Failure if its exit status is not the expected one (None: any)."""
        began = time.monotonic()
        pid, call = self.torpor_start(arguments, **more)
        result = self.torpor_result(pid, call, arguments, began, seconds)
        if expect is not None and result.status != expect:
            raise Failure(f"torpor {' '.join(map(str, arguments))}: expected status {expect}, got {result}")
        return result

    def image(self, name="image"):
        return os.path.join(self.images, name + ".torpor")

    def dump(self, root, name="image", keep=False):
        path = self.image(name)
        if os.path.exists(path):
            os.unlink(path)
        members = self.members(root)
        self.torpor("dump", root, "-o", path, *(["--keep-running"] if keep else []))
        if not os.path.exists(path):
            raise Failure(f"dump succeeded but left no file {path}")
        if keep:
            if not stat_of(root) or stat_of(root).state == "Z":
                raise Failure(f"{root} ended although it was to keep running")
        else:
            self.expect_gone(root, members)
        return path

    def restore(self, root, name="image", expect=0):
        """Wake a tree up, detached. Its PID must be the one it had, in tier userns inside its namespace."""
        self.statuses.clear()
        pidfile = os.path.join(self.images, "pid")
        if os.path.exists(pidfile):
            os.unlink(pidfile)
        arguments = ["restore", self.image(name), "--detach", "--pidfile", pidfile]
        for _ in range(SNATCHED if self.setup.tier == "fork" and expect == 0 else 0):
            result = self.torpor(*arguments, expect=None)
            if "is taken" not in result.err:  # by a program of somebody else, while the PIDs went by
                break
        else:
            result = self.torpor(*arguments, expect=expect)
        if expect is not None and result.status != expect:
            raise Failure(f"torpor {' '.join(arguments)}: expected status {expect}, got {result}")
        if result.status == 0:
            self.look_at(root, read(pidfile, ""), "--pidfile")
        return result

    def look_at(self, root, told, where):
        """From now on we look at what a restore has made, whose PID is told there."""
        if self.setup.tier == "userns":
            self.look_inside(root, int(told))
        elif told.strip() != str(root):
            raise Failure(f"{where} tells {told!r}, not {root}")

    def below(self, pid):
        """The program for which the torpor at or below this process stands in, as it is seen here: the child of its child, the init."""
        def find():
            tree = {p: s for p in tree_of(pid) if (s := stat_of(p))}
            inits = [p for p in tree if tree[p].comm == "torpor-init"]
            return [p for p in tree if inits and tree[p].ppid == inits[0]]
        return self.until(find, 20, f"the program below torpor {pid}")[0]

    def expect_restored(self, root, pid):
        """Wait until a restore in the foreground, at or below this process, has made the tree; from then on we look at that."""
        View.init = None
        if self.setup.tier == "userns":
            self.look_inside(root, self.below(pid))
        else:
            self.until(lambda: stat_of(root), 20, "the restored program")

    def only_where_pids_are_taken(self):
        if self.setup.tier == "userns":
            raise Skip("a restore in tier userns finds every PID free")

    def look_inside(self, root, pid):
        """From now on we look at the namespace of this process, which is `root` there. Without effect once that has ended."""
        numbers = re.search(r"^NSpid:\s*(.*)$", read(f"/proc/{pid}/status", "NSpid: gone"), re.M).group(1).split()
        if numbers not in ([str(pid), str(root)], ["gone"]):
            raise Failure(f"{root} is {numbers} after the restore")
        if numbers != ["gone"]:
            View.init, View.root = stat_of(pid).ppid, root

    # -- trees --

    def members(self, root):
        """The tree of root and what else is in its session."""
        stats = all_stats()
        tree = tree_of(root, stats)
        if root in stats and stats[root].session == root:
            tree += [p for p, s in stats.items() if s.session == root and p not in tree]
        return tree

    def expect_gone(self, root, members):
        def left():
            stats = all_stats()
            return [p for p in stats if p == root or stats[p].session == root]
        self.until(lambda: not left(), 5, f"the tree of {root} is not gone after the dump: {left()}")
        # What was in the tree when it was listed may have ended by itself, but must not be there now.
        self.until(lambda: not any(stat_of(p) for p in members), 5,
                   f"tasks of the tree are there after the dump: {[p for p in members if stat_of(p)]}")
        View.init = None

    def shape(self, root):
        stats = all_stats()
        return {p: (stats[p].ppid if p != root else 0, stats[p].pgrp, stats[p].session)
                for p in tree_of(root, stats)}

    def cycle(self, root, static=True, name="image"):
        """Put a tree to sleep and wake it up. A static tree neither forks nor ends tasks by itself."""
        before = self.shape(root)
        self.dump(root, name)
        self.restore(root, name)
        if not stat_of(root):
            raise Failure(f"{root} is not there after the restore (status {self.statuses.get(root)})")
        if static and self.shape(root) != before:
            raise Failure(f"the tree is not the same: before {before}, after {self.shape(root)}")

    def stop_tree(self, root):
        """Stop every task with SIGSTOP, parents first. Returns those that were running."""
        stopped = []
        while True:
            rest = [p for p in tree_of(root) if p not in stopped and stat_of(p) and stat_of(p).state not in "TZ"]
            if not rest:
                return stopped
            kill(rest[0], signal.SIGSTOP)
            self.until(lambda: self.stands_still(rest[0]), 10, f"{rest[0]} does not stop")
            stopped.append(rest[0])

    def stands_still(self, pid):
        states = [stat_of(f"{pid}/task/{t}") for t in threads_of(pid)]
        return all(s is None or s.state in "TZX" for s in states)

    def continue_tasks(self, pids):
        for pid in reversed(pids):
            if stat_of(pid):
                kill(pid, signal.SIGCONT)

    def compare_cycle(self, root):
        """One cycle of a tree that stands still, so that /proc must show exactly the same before and after."""
        stopped = self.stop_tree(root)
        before = portrait(root)
        self.dump(root, "compared")
        self.restore(root, "compared")
        for pid in stopped:
            # It takes its SIGSTOP by itself, as soon as it gets to run.
            self.until(lambda: stat_of(pid) is None or self.stands_still(pid), 2, f"task {pid} was stopped, but is not")
            if stat_of(pid) is None:
                raise Failure(f"task {pid} was stopped, and is gone after the restore")
        found = differences(before, portrait(root))
        if self.setup.tier == "fork":
            found = [line for line in found if ": exe: " not in line]  # it leads to torpor, as is said
        for line in found:
            self.log(line)
        if found:
            raise Failure(f"{len(found)} differences after the restore, the first: {found[0]}")
        self.continue_tasks(stopped)

    def untraced(self, root):
        for pid in tree_of(root):
            if re.search(r"^TracerPid:\s*[1-9]", read(proc(f"{pid}/status"), ""), re.M):
                raise Failure(f"task {pid} is still traced")

    def fresh_work(self):
        for name in os.listdir(self.work):
            path = os.path.join(self.work, name)
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    @staticmethod
    def limit_factor():
        return SLOWER

    def target(self, name):
        return os.path.join(TARGETS, name)

    def path(self, name):
        return os.path.join(self.work, name)

    def write(self, name, content):
        """A file in the work folder that belongs to the user."""
        path = self.path(name)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        self.setup.own(path)
        return path


def run_case(setup, chosen):
    """Run one case in this process, which must be its own. Returns (result, text)."""
    become_subreaper()
    context = Context(setup, chosen.name)
    try:
        missing = chosen.missing()
        if missing:
            raise Skip("not installed: " + ", ".join(missing))
        chosen.function(context)
        return "ok", ""
    except Skip as e:
        return "skip", str(e)
    except Failure as e:
        context.log(f"FAILED: {e}")
        return "failed", str(e)
    except Exception as e:  # a fault of the test, or a process that vanished under it
        context.log(traceback.format_exc())
        return "failed", f"{type(e).__name__}: {e}"
    finally:
        context.end_all()


# ---- programs that count ----

class Steps:
    """The lines that a program appends. Nothing may be missing, repeated or out of order."""

    def __init__(self, context, labels):
        self.context, self.labels = context, labels
        self.path = context.path("steps")
        self.base = {label: 0 for label in labels}

    def read(self):
        counts = dict(self.base)
        done = False
        text = read(self.path, "")
        for line in text[:text.rfind("\n") + 1].splitlines():
            label, _, number = line.partition(" ")
            if label == "done":
                done = True
            elif label == "bad" or label not in counts or not number.isdigit():
                raise Failure(f"the program reports: {line!r}")
            elif counts[label] is None:
                counts[label] = int(number)
            elif int(number) != counts[label] + 1:
                raise Failure(f"step {label} {counts[label]} is followed by {number}")
            else:
                counts[label] += 1
        return counts, done

    def counts(self):
        return self.read()[0]

    def advance(self, steps=3, seconds=30):
        """Wait until every label has got some steps further."""
        before = self.counts()

        def further():
            now = self.counts()
            return all(now[l] is not None and now[l] >= (before[l] or 0) + steps for l in self.labels)
        try:
            self.context.until(further, seconds, "", pause=0.005)
        except Failure as e:
            if not str(e).startswith("timed out"):
                raise
            raise Failure(f"the program does not go on: {before} became {self.counts()} in {seconds * SLOWER:g} s")

    def rotate(self):
        """Move the file away; the next one begins wherever the program is."""
        os.rename(self.path, self.path + ".aside")
        self.base = {label: None for label in self.labels}

    def from_start(self):
        self.base = {label: 0 for label in self.labels}

    def first(self):
        """The first number of each label in the file."""
        found = {}
        for line in read(self.path, "").splitlines():
            label, _, number = line.partition(" ")
            found.setdefault(label, number)
        return {l: int(found[l]) for l in self.labels}


def finish(t, root, steps):
    """Ask a counting program to check itself and to end."""
    t.write("stop", "")
    status = t.wait_exit(root, 60)
    os.unlink(t.path("stop"))
    if status != 0 or not steps.read()[1]:
        raise Failure(f"the program ended with status {status}, its last steps: {read(steps.path, '')[-200:]!r}")


def keep_running(t, root, steps, extra, wait):
    """Save a running tree, let it run on, and prove that both it and the copy are right."""
    for attempt in range(4):
        low = steps.counts()
        t.dump(root, "copy", keep=True)
        high = steps.counts()
        steps.advance(wait)
        t.untraced(root)
        t.dump(root, "original")
        files = Snapshot(t, [t.work, *extra(root)])
        try:
            steps.rotate()
            result = t.restore(root, "copy", expect=None)
            if result.status == 1 and steps.path in result.err:
                # The moment was one of those when the program had the file open. It has changed since.
                t.log("the copy had the steps file open; once more")
                files.put_back()
                steps.from_start()
                t.restore(root, "original")
                steps.advance(wait)
                continue
            if result.status != 0:
                raise Failure(f"the copy cannot be restored: {result}")
            steps.advance(wait)
            for label, number in steps.first().items():
                if not low[label] < number <= high[label] + 1:
                    raise Failure(f"the copy begins with {label} {number}; the dump was made between "
                                  f"{low[label]} and {high[label]}")
            finish(t, root, steps)
            t.expect_gone(root, [])
            files.put_back()
            steps.from_start()
            t.restore(root, "original")
            steps.advance(wait)
            finish(t, root, steps)
            return
        finally:
            files.drop()
    raise Failure("the steps file was open in every one of four copies")


def counting(t, argv, labels, static=True, wait=3, extra=lambda root: [], warm=5, **arguments):
    """The whole life of a counting program: cycles, one with a comparison of /proc, and --keep-running."""
    steps = Steps(t, labels)
    root = t.start(argv, **arguments)
    steps.advance(warm, seconds=60)
    for number in range(ROUNDS):
        t.log(f"cycle {number + 1}")
        t.cycle(root, static)
        steps.advance(wait)
    t.log("cycle with comparison")
    t.compare_cycle(root)
    steps.advance(wait)
    t.log("keep running")
    keep_running(t, root, steps, extra, wait)


# ---- programs that come to an end with a result ----

def job(t, argv, prepare, verify, still=False, compare=True, **arguments):
    """A program that works some seconds towards a result: cycles on the way, then --keep-running.

    prepare(t) fills the work folder, verify(t, status) raises Failure if the result is wrong. still: files
    that it has open change all the time, so for --keep-running it is stopped while they are copied."""
    def begin():
        t.fresh_work()
        prepare(t)
        return t.start(argv, **arguments)

    def ended(root):
        verify(t, t.wait_exit(root, 100))

    began = time.monotonic()
    root = begin()
    ended(root)
    took = time.monotonic() - began
    pause = took / (2 * (ROUNDS + 3))
    t.log(f"undisturbed: {took:.2f} s; {pause:.3f} s between cycles")

    def cycles(root):
        time.sleep(pause)
        for number in range(ROUNDS):
            t.log(f"cycle {number + 1}")
            t.cycle(root, static=False)
            time.sleep(pause)
        if compare:
            t.compare_cycle(root)

    def still_works(root):
        """Go through the cycles. False: it ended by itself before they were over."""
        try:
            cycles(root)
        except Failure:
            t.reap()
            if root not in t.statuses:
                raise
        return root not in t.statuses

    root = begin()
    while not still_works(root):  # the machine has become quicker, as other cases ended
        verify(t, t.statuses[root])
        pause /= 2
        if pause < 0.001:
            raise Failure("the job ended too early to be tested")
        root = begin()
    ended(root)

    root = begin()
    time.sleep(pause * 2)
    stopped = t.stop_tree(root) if still else []
    files = Snapshot(t, [t.work])
    try:
        t.dump(root, "copy", keep=True)
        t.continue_tasks(stopped)
        t.untraced(root)
        ended(root)
        files.put_back()
        t.restore(root, "copy")
        t.continue_tasks(stopped)
        ended(root)
    finally:
        files.drop()


# ---- targets/Live.java ----

LIVE = ["churn0", "churn1", "hot", "talk", "tick"]  # its labels


def compile_live(t):
    def make(fresh):
        done = subprocess.run(["javac", "-d", fresh, t.target("Live.java")], capture_output=True, text=True)
        if done.returncode:
            raise Failure("javac: " + done.stderr)
    return made_once(os.path.join(t.setup.folder, "classes"), make)
