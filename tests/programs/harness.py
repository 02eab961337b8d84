# SPDX-License-Identifier: Apache-2.0
"""What the tests of real programs have in common.

A case is a function decorated with @case that gets a Context. It starts real
programs as an ordinary user, puts them to sleep with torpor and wakes them up,
and raises Failure when anything is not as it was.

The other rooms: cases.py, machine.py, procfs.py, portrait.py, files.py and
lives.py. What the cases use of them they import from here.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import traceback

# Some of these names are here for those who import them from here.
from cases import CASES, COMPILER, ENVIRONMENT_PATH, HERE, JOBS, PYTHON, ROUNDS, SLOWER, Failure, Skip, case  # noqa: F401
from files import Snapshot, compiled_once  # noqa: F401
from lives import LIVE, Steps, compile_live, counting, finish, job  # noqa: F401
from machine import CLONE_NEWNS, become_subreaper, own_machine, own_network, unshare  # noqa: F401
from portrait import differences, parse_smaps, portrait  # noqa: F401
from procfs import (View, all_stats, comm_of, in_foreground, inside, kib, kill, outside, proc, read, stat_of,  # noqa: F401
                    state_of, threads_of, trackers_of, tree_of)

TARGETS = os.path.join(HERE, "targets")
SNATCHED = 3  # tries of a restore in tier fork


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
                "TORPOR_TEST_SLOWER": str(SLOWER),
                # A process that becomes another program's is not one to look for leaks in.
                "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}

    def own(self, path):
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)


def as_user(t, *options):
    """The beginning of a launcher: a command that becomes the user whose programs are tested."""
    account = t.setup.account
    user = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"] if account else []
    return ["setpriv", *user, *options] if user or options else []


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
                with contextlib.suppress(ProcessLookupError):  # it ends by itself, too
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
            self.log_waiting()
            self.end(pid)
            raise Failure(f"torpor {' '.join(map(str, arguments))} hung: {self.errors(call)}")
        result = Result(arguments, status, read(f"{self.logs}/{call}.out", ""), self.errors(call),
                        time.monotonic() - began)
        self.log(f"call {call}: {result.seconds * 1000:.1f} ms, {result}")
        return result

    def log_waiting(self):
        """What every task below this one waits for."""
        for pid in tree_of(os.getpid())[1:]:
            for thread in threads_of(pid):
                task = f"/proc/{pid}/task/{thread}"
                call, stack, status = (read(f"{task}/{name}", "") for name in ("syscall", "stack", "status"))
                about = re.findall(r"^(?:Name|State|PPid|TracerPid|SigPnd|ShdPnd|SigBlk):\t(.*)$", status, re.M)
                self.log(f"thread {thread} of {pid} {about}: call {call.strip()}; {stack.split()[1::2]}")

    def errors(self, call):
        return read(f"{self.logs}/{call}.err", "")

    def torpor(self, *arguments, expect=0, seconds=150, **more):
        """Run torpor to its end; a Failure if its exit status is not the expected one (None: any)."""
        began = time.monotonic()
        pid, call = self.torpor_start(arguments, **more)
        result = self.torpor_result(pid, call, arguments, began, seconds)
        if expect is not None and result.status != expect:
            raise Failure(f"torpor {' '.join(map(str, arguments))}: expected status {expect}, got {result}")
        return result

    def image(self, name="image"):
        return os.path.join(self.images, name + ".torpor")

    def dump(self, root, name="image", keep=False, options=()):
        path = self.image(name)
        if os.path.exists(path):
            os.unlink(path)
        members = self.members(root)
        self.torpor("dump", root, "-o", path, *options, *(["--keep-running"] if keep else []))
        if not os.path.exists(path):
            raise Failure(f"dump succeeded but left no file {path}")
        if keep:
            if state_of(root) in ("", "Z"):
                raise Failure(f"{root} ended although it was to keep running")
        else:
            self.expect_gone(root, members)
        return path

    def restore(self, root, name="image", expect=0, options=()):
        """Wake a tree up, detached. Its PID must be the one it had, in tier userns inside its namespace."""
        self.statuses.clear()
        pidfile = os.path.join(self.images, "pid")
        if os.path.exists(pidfile):
            os.unlink(pidfile)
        arguments = ["restore", self.image(name), "--detach", "--pidfile", pidfile, *options]
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
        """The program for which the torpor at or below this process stands in, as it is seen here: its init's child, when it has a name."""
        def find():
            tree = {p: s for p in tree_of(pid) if (s := stat_of(p))}
            inits = [p for p in tree if tree[p].comm == "torpor-init"]
            return [p for p in tree if inits and tree[p].ppid == inits[0] and tree[p].comm != "torpor-init"]
        return self.until(find, 20, f"the program below torpor {pid}")[0]

    def expect_restored(self, root, pid):
        """Wait until a restore in the foreground, at or below this process, has made the tree, and look at that."""
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
            rest = [p for p in tree_of(root) if p not in stopped and state_of(p) not in ("", *"TZ")]
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

    def untraced(self, root, patience=0):
        """The kernel lets go of what a killed tracer has traced when that ends, a moment later: `patience`, in seconds."""
        def traced():
            return [p for p in tree_of(root) if re.search(r"^TracerPid:\s*[1-9]", read(proc(f"{p}/status"), ""), re.M)]
        self.until(lambda: not traced(), patience, f"task {traced()} is still traced")

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
