#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, the program runs on; a killed restore leaves nothing.

    kill.py [--torpor FILE] [--list] [NAME...]

TORPOR_TEST_KILLS=N makes N kills per case (60). Half of them come at random moments of the whole operation,
the others are aimed: at the time when the target is traced, or at the end, when a restored tree is let go.
Set-up, user and reporting are those of tests/programs.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import run  # noqa: E402
from harness import PYTHON, Failure, Skip, Steps, case, read, stat_of, threads_of, tree_of  # noqa: E402

KILLS = int(os.environ.get("TORPOR_TEST_KILLS", "60"))
LIMIT = 60 + KILLS * 2
PATIENCE = 5  # seconds until what the kernel does by itself must have happened


# ---- programs that check themselves ----

class Steady:
    """tests/faults/steady.c at work."""

    def __init__(self, t, *arguments):
        self.t, self.path, self.checks = t, t.path("steady"), 0
        self.interrupted = self.broken_off = 0  # waits that ended with EINTR
        self.root = t.start([t.target("steady"), *map(str, arguments)])
        t.until(lambda: "ready\n" in self.read(), 10, "the start of steady")
        self.check()

    def read(self):
        text = read(self.path, "")
        bad = re.search(r"^bad .*$", text, re.M)
        if bad:
            raise Failure(f"the program reports: {bad.group()!r}")
        return text

    def check(self):
        """Every thread gets further, and finds what it left."""
        self.checks += 1
        os.kill(self.root, signal.SIGUSR1)

        def answered():
            if not alive(self.root):
                self.read()
                raise Failure(f"the program has ended (status {self.t.statuses.get(self.root)})")
            return re.search(rf"^ok {self.checks} (\d+) (\d+)$", self.read(), re.M)
        found = self.t.until(answered, 25, "the program does not answer")
        self.interrupted = int(found.group(1))
        self.broken_off = int(found.group(2))
        if self.broken_off:
            raise Failure("a sleep, poll or futex ended with EINTR")


class PythonThreads:
    """Eight threads of a Python that signal each other, with counters of their own."""

    interrupted = 0

    def __init__(self, t):
        self.t = t
        self.steps = Steps(t, [f"thread{k}" for k in range(8)])
        self.root = t.start([PYTHON, "-B", t.target("threads.py")])
        self.steps.advance(5)

    def check(self):
        if not alive(self.root):
            raise Failure(f"the program has ended (status {self.t.statuses.get(self.root)})")
        self.steps.advance(2, seconds=20)
        if os.path.getsize(self.steps.path) > 100000:  # it is read as a whole
            self.steps.rotate()
            self.steps.advance(1)


def alive(pid):
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


def kill_tree(t, root):
    """End the processes of a tree, each by its PID."""
    for pid in reversed(tree_of(root)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    t.until(lambda: not stat_of(root), 10, f"the end of {root}")


# ---- what must not change ----

def look_at_maps(pid):
    """Mappings, neighbours that are alike merged."""
    return [m for m in harness.parse_smaps(read(f"/proc/{pid}/smaps", "")) if "[heap]" not in m]


def look_at_fds(pid):
    fds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    return fds


# A wait for them opens the mask for its time, or the handler closes it; the checks would not succeed without them.
PASSING = sum(1 << (s - 1) for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM))


def look_at_thread(pid, tid):
    """Signal mask and tracer of a thread; None while it is stopped."""
    text = read(f"/proc/{pid}/task/{tid}/status", "")
    about = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if not about or about["State"].split()[0] in "tT":
        return None
    return f"{int(about['SigBlk'], 16) & ~PASSING:016x}", about["TracerPid"].strip()


class Before:
    """What /proc tells of a tree, to be compared with later."""

    def __init__(self, root):
        self.root = root
        self.pids = tree_of(root)
        self.views = {}
        for pid in self.pids:
            self.views[pid, "maps"] = look_at_maps(pid)
            self.views[pid, "fds"] = look_at_fds(pid)
            for tid in threads_of(pid):
                self.views[pid, tid] = look_at_thread(pid, tid)

    def again(self, key):
        pid, what = key
        if what == "maps":
            return look_at_maps(pid)
        return look_at_fds(pid) if what == "fds" else look_at_thread(pid, what)

    def expect_same(self, t):
        """Everything is as it was. A busy program has moments: each view has some time to be it once."""
        for pid in self.pids:
            wanted = sorted(k[1] for k in self.views if k[0] == pid and isinstance(k[1], int))
            t.until(lambda: threads_of(pid) == wanted, PATIENCE, f"threads {threads_of(pid)} instead of {wanted}")
        for key, view in self.views.items():
            try:
                t.until(lambda: self.again(key) == view, PATIENCE, "")
            except Failure:
                raise Failure(f"{key}: {differ(view, self.again(key))}")


def differ(before, after):
    if isinstance(before, list) and isinstance(after, list):
        return f"gone {[m for m in before if m not in after]}, new {[m for m in after if m not in before]}"
    return f"before {before!r}, after {after!r}"


# ---- moments ----

def traced(pid):
    return re.search(r"^TracerPid:\s*[1-9]", read(f"/proc/{pid}/status", ""), re.M)


class Moments:
    """When to kill: by turns at random, and some random time after a sign of the wanted phase."""

    def __init__(self, duration, sign=None, window=None):
        self.duration, self.sign, self.window = duration, sign, window or duration
        self.number = 0

    def wait(self, pid):
        """Sleep until the next moment."""
        self.number += 1
        if self.number % 2 and self.sign:
            end = time.monotonic() + 5
            while not self.sign() and time.monotonic() < end and stat_of(pid) and stat_of(pid).state != "Z":
                pass
            delay(random.random() ** 2 * self.window)
        else:
            delay(random.random() * self.duration * 1.1)


def delay(seconds):
    end = time.monotonic() + seconds
    if seconds > 0.001:
        time.sleep(seconds - 0.0005)
    while time.monotonic() < end:
        pass


def measure(t, arguments, again=lambda: None):
    """How long torpor takes: the median of some runs."""
    times = []
    for _ in range(5):
        times.append(t.torpor(*arguments).seconds)
        again()
    return sorted(times)[2]


def strike(t, arguments, moments, signo=signal.SIGKILL):
    """Run torpor and send it a signal at the next moment. Returns its exit status."""
    pid, _ = t.torpor_start(arguments)
    moments.wait(pid)
    try:
        os.kill(pid, signo)  # it is not reaped before wait_exit()
    except ProcessLookupError:
        pass
    status = t.wait_exit(pid, 40)
    t.log(f"status {status}")
    return status, pid


# ---- (a) and (c): a dump that is killed or interrupted ----

def files_after(t, torpor_pid, parts_allowed):
    """What the dump left. Returns whether there is an image; it is whole then."""
    image = t.image()
    for name in files(t):
        path = os.path.join(t.images, name)
        if path == image:
            t.torpor("verify", image)
        elif parts_allowed and name == f"{os.path.basename(image)}.part-{torpor_pid}":
            os.unlink(path)
        else:
            raise Failure(f"the dump left {name}")
    return os.path.exists(image)


def after_dump(t, program, before, status, keep, has_image):
    """The program runs on unharmed; or it is in the image, and nothing of it is left outside. Says which."""
    root = program.root
    if has_image and not keep:
        # The commit has happened. torpor may have had the time to end the program, or not.
        if whole_or_gone(t, root, before.pids) == "gone":
            t.restore(root)
            before.__init__(root)
            program.check()
            return "saved"
    if status == 0 and not keep:
        raise Failure("the dump says that it succeeded, but the program is there")
    program.check()
    before.expect_same(t)
    return "committed" if has_image else "unharmed"


def files(t):
    """What is in the folder of the images, but the file that t.restore() makes."""
    return [name for name in os.listdir(t.images) if name != "pid"]


def attack_dump(t, start, keep, signals, parts_allowed, expect_status):
    program = start(t)
    arguments = ["dump", program.root, "-o", t.image(), *(["--keep-running"] if keep else [])]
    quick = ["dump", program.root, "-o", t.image(), "--keep-running"]
    duration = measure(t, quick)
    frozen = re.search(r"after ([\d.]+) ms", read(f"{t.logs}/{t.calls}.out"))
    t.log(f"a dump takes {duration * 1000:.1f} ms")
    moments = Moments(duration, lambda: traced(program.root), float(frozen.group(1)) / 1000 * 1.3)
    program.check()
    before = Before(program.root)
    outcomes = {}
    for number in range(KILLS):
        if os.path.exists(t.image()):
            os.unlink(t.image())
        signo = signals[number % len(signals)]
        status, pid = strike(t, arguments, moments, signo)
        expect_status(status, signo)
        has_image = files_after(t, pid, parts_allowed)
        if status == 0 and not has_image or status > 0:
            raise Failure(f"status {status}, image: {has_image}; {t.errors(t.calls)}")
        outcome = after_dump(t, program, before, status, keep, has_image)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    # What many killed dumps left behind in the program does not disturb one that is not killed.
    t.torpor(*quick)
    before.expect_same(t)
    t.cycle(program.root)
    program.check()
    summary(t, outcomes, program)


def summary(t, outcomes, program=None):
    text = ", ".join(f"{n} {o}" for o, n in sorted(outcomes.items()))
    if program:
        text += f"; {program.interrupted} times EINTR from epoll_wait or sigtimedwait"
    t.log(text)
    print(f"    {t.name}: {text}", flush=True)


def killed(status, signo):
    if status not in (-signo, 0):
        raise Failure(f"torpor ended with {status}")


def kill_dump(t, start, keep):
    attack_dump(t, start, keep, [signal.SIGKILL], True, killed)


def interrupt_dump(t, start, keep):
    attack_dump(t, start, keep, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], False, killed)


for keep in (False, True):
    suffix = "-keep" if keep else ""
    case("kill-dump" + suffix, limit=LIMIT, start=Steady, keep=keep)(kill_dump)
    case("kill-dump-tree" + suffix, limit=LIMIT, start=lambda t: Steady(t, 6), keep=keep)(kill_dump)
    case("kill-dump-python" + suffix, limit=LIMIT, start=PythonThreads, keep=keep)(kill_dump)
    case("interrupt-dump" + suffix, limit=LIMIT, start=Steady, keep=keep)(interrupt_dump)


@case("stopped-after-kill", limit=LIMIT)
def stopped_after_kill(t):
    """A program that stands still (SIGSTOP) keeps the remains of a killed dump; the next dump copes with them."""
    program = Steady(t)
    os.kill(program.root, signal.SIGSTOP)
    t.until(lambda: t.stands_still(program.root), 5, "the stop")
    arguments = ["dump", program.root, "-o", t.image(), "--keep-running"]
    moments = Moments(measure(t, arguments), lambda: traced(program.root), 0.01)
    for _ in range(max(10, KILLS // 4)):
        strike(t, arguments, moments)
        t.until(lambda: not traced(program.root) and t.stands_still(program.root), PATIENCE, "it does not stand still")
        if moments.number % 3 == 0:
            t.torpor(*arguments)
    t.dump(program.root, "image")
    t.restore(program.root)
    os.kill(program.root, signal.SIGCONT)
    program.check()


# ---- (b): a restore that is killed ----

def whole(root, members):
    """The whole tree is there and runs."""
    return sorted(tree_of(root)) == sorted(members) and all(
        alive(p) and not doomed(p) and all((look_at_thread(p, tid) or (0, "1"))[1] == "0" for tid in threads_of(p))
        for p in members)


def doomed(pid):
    """It is about to die: SIGKILL has been sent."""
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", read(f"/proc/{pid}/status", ""), re.M)
    return any(int(mask, 16) & 1 << (signal.SIGKILL - 1) for mask in pending)


def whole_or_gone(t, root, members, patience=PATIENCE):
    """Which of the two the tree is, once that does not change any more. A Failure for half a tree."""
    def now():
        left = [p for p in members if stat_of(p)]
        return "gone" if not left else "whole" if whole(root, members) else None

    def settled():
        first = now()
        time.sleep(0.02 if first == "whole" else 0.002)
        t.reap()
        return first if now() == first else None
    return t.until(settled, patience, f"half a tree: {[(p, stat_of(p) and stat_of(p).state) for p in members]}")


def kill_restore(t, *arguments):
    program = Steady(t, *arguments)
    root = program.root
    program.check()
    checks = program.checks
    members, threads = sorted(tree_of(root)), {p: len(threads_of(p)) for p in tree_of(root)}
    t.dump(root)
    restore = ["restore", t.image(), "--detach"]
    duration = measure(t, restore, lambda: kill_tree(t, root))
    t.log(f"a restore takes {duration * 1000:.1f} ms")
    content = read_bytes(t.image())
    outcomes = {"gone": 0, "whole": 0}
    for number in range(KILLS):
        moments = Moments(duration * 1.2, lambda: complete_threads(threads), duration * 0.15)
        moments.number = number
        status, _ = strike(t, restore, moments)
        killed(status, signal.SIGKILL)
        outcome = whole_or_gone(t, root, members)
        if status == 0 and outcome != "whole":
            raise Failure("the restore says that it succeeded")
        outcomes[outcome] += 1
        others = [p for p in tree_of(os.getpid())[1:] if p not in members]
        if others:
            raise Failure(f"processes are left: {[(p, stat_of(p) and stat_of(p).comm) for p in others]}")
        if outcome == "whole":
            check_again(t, program, checks)
            kill_tree(t, root)
            t.until(lambda: not any(stat_of(p) for p in members), PATIENCE, "the children do not end")
        if files(t) != [os.path.basename(t.image())] or read_bytes(t.image()) != content:
            raise Failure(f"the image has changed, or there are other files: {files(t)}")
        if number % 10 == 9:
            t.torpor("verify", t.image())
            t.restore(root)
            check_again(t, program, checks)
            kill_tree(t, root)
            t.until(lambda: not any(stat_of(p) for p in members), PATIENCE, "the children do not end")
    t.restore(root)
    check_again(t, program, checks)
    summary(t, outcomes)


def complete_threads(threads):
    return all(len(threads_of(p)) == n for p, n in threads.items())


def check_again(t, program, checks):
    """A restored copy goes on numbering its checks where the saved program was."""
    program.read()
    os.unlink(program.path)
    program.checks = checks
    program.check()


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


case("kill-restore", limit=LIMIT)(kill_restore)
case("kill-restore-tree", limit=LIMIT)(lambda t: kill_restore(t, 8))


# ---- (d): no room ----

def refuses_without_room(t, program, before, argv, words):
    image = argv[argv.index("-o") + 1]
    messages, to = os.pipe()  # a file would fall under the limit as well
    pid = t.popen(argv, subprocess.DEVNULL, to, to)
    os.close(to)
    status = t.wait_exit(pid, 30)
    with os.fdopen(messages) as f:
        text = f.read()
    if status != 5 or not re.search(words, text, re.I):
        raise Failure(f"expected status 5 and {words!r}, got {status}: {text}")
    if os.listdir(os.path.dirname(image)):
        raise Failure(f"the dump left {os.listdir(os.path.dirname(image))}")
    program.check()
    before.expect_same(t)


@case("full-disk")
def full_disk(t):
    if os.geteuid() != 0:
        raise Skip("only root can mount a small file system")
    folder = os.path.join(t.base, "small")
    os.mkdir(folder)
    program = Steady(t)
    before = Before(program.root)
    for size in ("4k", "64k", "512k", "1m", "2m"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "none", folder], check=True)
        try:
            refuses_without_room(t, program, before, [t.setup.binary, "dump", str(program.root), "-o",
                                                      os.path.join(folder, "image")], "no space")
        finally:
            subprocess.run(["umount", folder], check=True)


@case("file-size-limit")
def file_size_limit(t):
    program = Steady(t)
    before = Before(program.root)
    for blocks in (0, 1, 8, 100, 1000, 3000):
        refuses_without_room(t, program, before, ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", t.setup.binary, "dump",
                                                  str(program.root), "-o", t.image()], "too large")


@case("folder-vanishes")
def folder_vanishes(t):
    program = Steady(t)
    before = Before(program.root)
    duration = measure(t, ["dump", program.root, "-o", t.image(), "--keep-running"])
    for _ in range(20):
        folder = os.path.join(t.base, "vanishing")
        os.mkdir(folder)
        t.setup.own(folder)
        pid, _ = t.torpor_start(["dump", program.root, "-o", folder + "/image", "--keep-running"])
        delay(random.random() * duration)
        shutil.rmtree(folder, ignore_errors=True)
        status = t.wait_exit(pid, 30)
        if status not in (0, 3, 5):
            raise Failure(f"status {status}: {t.errors(t.calls)}")
        shutil.rmtree(folder, ignore_errors=True)
        program.check()
        before.expect_same(t)


# ---- (e): targets that do not hold still ----

def tolerant_dump(t, root, *more, good=(0, 1, 5)):
    """Whether a dump succeeded. When it did not, it says why."""
    if os.path.exists(t.image()):
        os.unlink(t.image())
    result = t.torpor("dump", root, "-o", t.image(), *more, expect=None, seconds=40)
    if result.status not in good or result.status and not result.err.strip():
        raise Failure(f"a dump of a restless program: {result}")
    left = files(t)
    if left != ([os.path.basename(t.image())] if result.status == 0 else []):
        raise Failure(f"status {result.status}, and these files: {left}")
    return result.status == 0


def unrest(t, mode):
    program = Steady(t, mode)
    for _ in range(20):
        if not tolerant_dump(t, program.root, "--keep-running", good=(0,)):
            raise Failure("not saved")
        program.check()
        t.untraced(program.root)
    for _ in range(5):
        t.cycle(program.root, static=False)
        program.check()


case("storm-of-threads", limit=180)(lambda t: unrest(t, "storm"))
case("storm-of-forks", limit=180)(lambda t: unrest(t, "forks"))


@case("target-executes", limit=180)
def target_executes(t):
    """The target executes another program all the time."""
    root = t.start([t.target("steady"), "exec"])
    time.sleep(0.05)
    saved = sum(tolerant_dump(t, root, "--keep-running") for _ in range(40))
    if not alive(root):
        raise Failure(f"the program has ended: {t.statuses.get(root)}")
    t.log(f"{saved} of 40 saved")
    if not saved:
        raise Failure("never saved")
    t.until(lambda: not traced(root), PATIENCE, "it is traced")


@case("target-ends", limit=LIMIT)
def target_ends(t):
    """The target ends, or is killed, while it is being saved."""
    outcomes = {}
    for number in range(max(40, KILLS)):
        root = t.start([t.target("steady"), "brief", str(random.randint(0, 120))])
        if number % 2:
            pid, _ = t.torpor_start(["dump", root, "-o", t.image(), "--keep-running"])
            delay(random.random() * 0.015)
            try:
                os.kill(root, signal.SIGKILL)
            except ProcessLookupError:
                pass
            status = t.wait_exit(pid, 30)
            if status not in (0, 1, 5):
                raise Failure(f"status {status}: {t.errors(t.calls)}")
        else:
            status = 0 if tolerant_dump(t, root, "--keep-running") else 1
        result = t.wait_exit(root, 30)
        if result != 9 and not (number % 2 and result == -9):
            raise Failure(f"the program ended with {result}")
        outcomes["saved" if status == 0 else "not saved"] = outcomes.get("saved" if status == 0 else "not saved", 0) + 1
        for name in os.listdir(t.images):
            os.unlink(t.image())
            if name != os.path.basename(t.image()):
                raise Failure(f"left behind: {name}")
    summary(t, outcomes)


@case("steady-target-killed", limit=LIMIT)
def steady_killed(t):
    """A target with many threads is killed while it is being saved: no hang, no zombie that stays."""
    for number in range(max(20, KILLS // 3)):
        program = Steady(t, 2)
        members = tree_of(program.root)
        pid, _ = t.torpor_start(["dump", program.root, "-o", t.image(), "--keep-running"])
        if number % 2:
            end = time.monotonic() + 2
            while not traced(program.root) and time.monotonic() < end:
                pass
        delay(random.random() * 0.012)
        os.kill(members[number % 3], signal.SIGKILL)
        status = t.wait_exit(pid, 10)
        if status not in (0, 1, 5):
            raise Failure(f"status {status}: {t.errors(t.calls)}")
        if status and os.listdir(t.images):
            raise Failure(f"left behind: {os.listdir(t.images)}")
        if status == 0:
            os.unlink(t.image())
        kill_members(t, members)
        os.unlink(program.path)


def kill_members(t, members):
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    t.until(lambda: not any(stat_of(p) for p in members), 10, "the ends of the tree")


# ---- (f): what cannot be ----

@case("two-dumps")
def two_dumps(t):
    """Two dumps of one program at once: one or both succeed, and the program is as before."""
    program = Steady(t)
    before = Before(program.root)
    refused = 0
    for _ in range(20):
        pids = [t.torpor_start(["dump", program.root, "-o", t.image(f"image{k}"), "--keep-running"])[0] for k in (1, 2)]
        statuses = [t.wait_exit(p, 30) for p in pids]
        for k, status in enumerate(statuses):
            text = t.errors(t.calls - 1 + k)
            if status and (status not in (1, 3) or "tracing" not in text):
                raise Failure(f"status {status}: {text}")
            if os.path.exists(t.image(f"image{k + 1}")) != (status == 0):
                raise Failure(f"status {status}, and {os.listdir(t.images)}")
            refused += status != 0
        if all(statuses):
            raise Failure("neither dump succeeded")
        for name in os.listdir(t.images):
            t.torpor("verify", os.path.join(t.images, name))
            os.unlink(os.path.join(t.images, name))
        program.check()
        before.expect_same(t)
    summary(t, {"refused": refused, "saved": 40 - refused})


@case("impossible-targets", shares_machine=True)
def impossible(t):
    for target, status, words in ((1, (1, 2, 3), "init"), (2, (1, 2, 3), "kernel thread")):
        result = t.torpor("dump", target, "-o", t.image(), expect=None)
        if result.status not in status or not re.search(words, result.err, re.I):
            raise Failure(f"dump of {target}: {result}")
    # Itself, and its ancestors: the shell becomes torpor, or waits for it.
    for script, words in (('exec "$0" dump $$ -o "$1"', "itself"), ('"$0" dump $$ -o "$1"; exit $?', "itself runs inside"),
                          ('sh -c "$0 dump $$ -o $1; exit \\$?"; exit $?', "itself runs inside")):
        with t.output("self.err") as err:
            err.truncate(0)
            pid = t.popen(["sh", "-c", script, t.setup.binary, t.image()], subprocess.DEVNULL, err, err)
        status = t.wait_exit(pid, 10)
        text = read(f"{t.logs}/self.err")
        if status not in (1, 2, 3) or not re.search(words, text):
            raise Failure(f"{script}: status {status}: {text}")
    if os.listdir(t.images):
        raise Failure(f"left behind: {os.listdir(t.images)}")


# ---- all of it ----

def prepare(setup):
    if harness.TARGETS == os.path.join(harness.HERE, "targets"):
        harness.TARGETS = shutil.copytree(harness.TARGETS, os.path.join(setup.folder, "targets"))
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-std=gnu17", "-D_GNU_SOURCE", "-pthread", "-o",
                    os.path.join(harness.TARGETS, "steady"), os.path.join(HERE, "steady.c")], check=True)


if __name__ == "__main__":
    sys.exit(run.main(__doc__, prepare))
