# SPDX-License-Identifier: Apache-2.0
"""Tier userns and torpor run: no privilege at all, and PID namespaces that torpor makes."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

from dialogues import Terminal, at_pipes, dialogue, expect_status, restore_at_pipes
from harness import (LIVE, PYTHON, SLOWER, Failure, Skip, Steps, case, comm_of, compile_live, in_foreground,
                     inside, read, stat_of, tree_of)

KILLS = 8


def begin(t):
    """torpor has no capability from now on, and restores in tier userns."""
    t.setup.work_in("userns")


def gone(t, *pids):
    t.until(lambda: not any(map(stat_of, pids)), 10, f"the end of {[p for p in pids if stat_of(p)]}")


def run_at_pipes(t, *argv):
    (pid, _), talk = at_pipes(lambda stdin, stdout: t.torpor_start(["run", *argv], stdin=stdin, stdout=stdout))
    return pid, talk


# ---- restore ----

@case("userns-side-by-side")
def side_by_side(t):
    """Two copies of one program at the same time: the same PID inside, and neither notices the other."""
    begin(t)
    root, talk = dialogue(t)
    t.dump(root)
    copies = [restore_at_pipes(t) for _ in range(2)]
    for number, (pid, talk) in enumerate(copies):
        talk.send(f"copy{number}\n")
        talk.expect(f"1:copy{number}\n")
    programs = [t.below(pid) for pid, _ in copies]
    if [inside(p) for p in programs] != [root, root] or programs[0] == programs[1]:
        raise Failure(f"the copies have the PIDs {[inside(p) for p in programs]} inside, not {root}")
    for pid, talk in copies:
        os.kill(pid, signal.SIGTERM)
        talk.expect("terminated\n")
        expect_status(t, pid, 9)
    gone(t, *programs)


@case("userns-foreground")
def foreground(t):
    """Signals to torpor reach the program, and its end is torpor's; a killed init takes the program along."""
    begin(t)
    root, talk = dialogue(t)
    t.dump(root)
    pid, talk = restore_at_pipes(t)
    talk.send("hello\n")
    talk.expect("1:hello\n")
    time.sleep(0.2)  # until it waits in read(2)
    os.kill(pid, signal.SIGINT)
    talk.expect("interrupted\n")
    talk.send("exit 42\n")
    expect_status(t, pid, 42)

    for whose in ("program", "init"):
        pid, talk = restore_at_pipes(t)
        talk.send("hello\n")
        talk.expect("1:hello\n")
        program = t.below(pid)
        init = stat_of(program).ppid
        t.until(lambda: os.readlink(f"/proc/{init}/fd/0") == "/dev/null", 10, "the restore's end: its init lets go of all it had")
        os.kill(program if whose == "program" else init, signal.SIGKILL)
        expect_status(t, pid, -signal.SIGKILL)
        gone(t, program)


@case("userns-outlives")
def outlives(t):
    """What the program has started in the background outlives it, and its init ends with the last of it."""
    begin(t)
    pid, _ = t.torpor_start(["run", "sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >child; exit 3"])
    expect_status(t, pid, 3)
    (sleep,) = t.until(lambda: [p for p in tree_of(os.getpid()) if comm_of(p) == "sleep"], 10, "the orphan")
    init = stat_of(sleep).ppid
    if comm_of(init) != "torpor-init" or inside(sleep) != int(read(t.path("child"))):
        raise Failure(f"the orphan's parent is {comm_of(init)}, it is {inside(sleep)} inside, not {read(t.path('child'))}")
    os.kill(sleep, signal.SIGKILL)
    t.until(lambda: init in t.statuses, 10, "the end of the init")
    if t.statuses[init] != 3:
        raise Failure(f"the init ended with {t.statuses[init]}")


@case("userns-clocks")
def clocks(t):
    """Clocks that measure time go on where they stood; the wall clock does not."""
    begin(t)
    pause = 1.5 * SLOWER
    program = ("import time\nwhile 1:\n open('steps', 'a').write('%f %f %f\\n' % tuple(map(time.clock_gettime, "
               "(time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_REALTIME))))\n time.sleep(0.02)")

    def times():
        return [list(map(float, line.split())) for line in read(t.path("steps"), "").splitlines()]
    root = t.start([PYTHON, "-c", program])
    t.until(lambda: len(times()) > 2, 20, "the program")
    t.dump(root)
    before = times()
    for number in range(2):
        time.sleep(pause)
        t.restore(root)
        t.until(lambda: len(times()) > len(before) + 2, 20, "the restored program")
        t.dump(root)
        after = times()
        # Not the first line: the clocks in it may have been read before the dump.
        jump = [b - a for a, b in zip(before[-1], after[len(before) + 1])]
        if not os.path.exists("/proc/self/ns/time"):
            raise Skip("this kernel has no time namespaces")
        if not (0 < jump[0] < SLOWER and 0 < jump[1] < SLOWER and jump[2] > pause):
            raise Failure(f"across restore {number + 1} the clocks went on by {jump}")
        before = after


@case("userns-killed", limit=120)
def killed(t):
    """torpor is killed while it restores: nothing is left, or all of it."""
    begin(t)
    root, talk = dialogue(t)
    t.dump(root)
    arguments = ["restore", t.image(), "--fd", "0=null", "--fd", "1=null"]
    pid, _ = t.torpor_start(arguments)
    began = time.monotonic()
    t.wait_exit(pid)
    whole = time.monotonic() - began
    for number in range(KILLS):
        pid, _ = t.torpor_start(arguments)
        time.sleep(random.uniform(0, whole))
        t.end(pid)
        t.until(lambda: not tree_of(os.getpid())[1:], 10, f"the end of what is left after kill {number + 1}")


@case("userns-dump-killed", limit=120)
def dump_killed(t):
    """torpor is killed while it dumps from outside: the process that is inside for it ends, and the program goes on."""
    begin(t)
    pid, talk = run_at_pipes(t, PYTHON, t.target("dialogue.py"))
    talk.expect("ready\n")
    program = t.below(pid)
    arguments = ["dump", program, "-o", t.image(), "--keep-running"]
    whole = t.torpor(*arguments).seconds
    for number in range(1, KILLS + 1):
        dump, _ = t.torpor_start(arguments)
        time.sleep(random.uniform(0, whole))
        if dump not in t.statuses:
            os.kill(dump, signal.SIGKILL)
        t.until(lambda: not [p for p in tree_of(os.getpid()) if comm_of(p) in ("torpor", "plain") and p != pid], 10,
                "the end of the process inside")
        talk.send("word\n")
        talk.expect(f"{number}:word\n")
        t.untraced(program, 5)
    talk.send("exit 0\n")
    expect_status(t, pid, 0)


LARGE = r"""
import hashlib, os, sys
memory = os.urandom(40 << 20)
print("ready", hashlib.sha256(memory).hexdigest(), flush=True)
for line in sys.stdin:
    print(line.strip(), hashlib.sha256(memory).hexdigest(), flush=True)
"""


@case("userns-large")
def large(t):
    """Memory that is loaded before the program is made, by a child of the new namespace's init."""
    begin(t)
    pid, talk = run_at_pipes(t, PYTHON, "-c", LARGE)
    digest = talk.expect(r"ready (\w+)\n").group(1)
    for number in range(3):
        t.dump(t.below(pid))
        t.until(lambda: pid in t.statuses, 10, "the end of torpor")
        pid, talk = restore_at_pipes(t)
        talk.send(f"{number}\n")
        talk.expect(f"{number} {digest}\n")
    os.kill(pid, signal.SIGKILL)


@case("userns-job-control")
def job_control(t):
    """In a terminal: the program is the foreground job of the shell, can be stopped, continued and interrupted."""
    begin(t)
    first = Terminal(t)
    for start in (f"run {PYTHON} {t.target('dialogue.py')}", f"restore --tier userns {t.image()}"):
        first.send(f"{t.setup.binary} {start}\n")
        if start.startswith("run"):
            first.expect("ready\r\n")
        first.send("one\n")
        first.expect(r"\d:one\r\n")
        first.send("\x1a")
        first.expect("Stopped")
        first.expect("shell> ")
        first.send("fg\n")
        first.expect("torpor|plain")
        first.send("two\n")
        first.expect(r"\d:two\r\n")
        time.sleep(0.2)
        first.send("\x03")
        first.expect("interrupted\r\n")
        if start.startswith("run"):
            t.torpor("dump", t.below(first.shell), "-o", t.image())
            first.expect("shell> ")
    first.send("exit 4\n")
    first.expect("shell> ")
    first.send("echo status=$?\n")
    first.expect("status=4\r\n")
    first.close(t)


@case("userns-shell")
def shell(t):
    """An interactive shell with jobs of its own, started by torpor run; dumped and restored on its terminal."""
    begin(t)
    first = Terminal(t)
    for start in ("run bash --norc --noprofile -i", f"restore --tier userns {t.image()}"):
        first.send(f"{t.setup.binary} {start}\n")
        if start.startswith("run"):
            first.expect("-i\r\n")
            first.expect("shell> ")
        first.send("sleep 1000\n")
        t.until(lambda: in_foreground(first.shell, "sleep"), 20, "sleep in the foreground")
        first.send("\x1a")
        first.expect("Stopped")
        first.send("jobs\n")
        first.expect(r"Stopped +sleep 1000\r\n")
        first.send("fg\n")
        first.expect("sleep 1000\r\n")
        t.until(lambda: in_foreground(first.shell, "sleep"), 20, "sleep in the foreground")
        first.send("\x03")
        first.expect("shell> ")
        first.send("echo $((40+$SHLVL-$SHLVL+2))\n")
        first.expect("42\r\n")
        if start.startswith("run"):
            t.torpor("dump", t.below(first.shell), "-o", t.image())
            first.expect("shell> ")
    first.send("exit 7\n")
    first.expect("shell> ")
    first.send("echo status=$?\n")
    first.expect("status=7\r\n")
    first.close(t)


# ---- run ----

@case("run-status")
def run_status(t):
    """The exit status is the program's; 126 and 127 as of a shell."""
    begin(t)
    for argv, expected in ((["true"], 0), (["--", "sh", "-c", "exit 42"], 42), (["/nonexistent"], 127), (["/etc/passwd"], 126),
                           (["no-such-program"], 127), (["sh", "-c", "kill -TERM $$"], -signal.SIGTERM), ([], 2),
                           (["--name", "1", "true"], 2), (["--unknown", "true"], 2)):
        result = t.torpor("run", *argv, expect=None)
        if result.status != expected:
            raise Failure(f"run {argv}: expected {expected}, got {result}")
    (pid, talk) = run_at_pipes(t, PYTHON, t.target("dialogue.py"))
    talk.expect("ready\n")
    time.sleep(0.2)
    os.kill(pid, signal.SIGINT)
    talk.expect("interrupted\n")
    os.kill(pid, signal.SIGTERM)
    talk.expect("terminated\n")
    expect_status(t, pid, 9)


PORTRAIT = r"""
import os, sys
def show(*_):
    keep = 'Cap SigBlk SigIgn NoNewPrivs Groups Uid Gid'.split()
    status = [l for l in open('/proc/self/status') if l.startswith(tuple(keep))]
    fds = sorted(os.listdir('/proc/self/fd'))
    print(''.join(status), fds, os.getcwd(), os.umask(0o22), sep='\n', flush=True)
"""


@case("run-privileges")
def run_privileges(t):
    """The program is as if it had been started directly: no capability, no other user's rights, nothing of torpor's."""
    begin(t)
    alone = t.path("alone")
    script = t.write("portrait.py", PORTRAIT + "show()")
    with open(t.write("alone", ""), "w") as out:
        t.wait_exit(t.popen([PYTHON, script], subprocess.DEVNULL, out, out))
    told = t.torpor("run", PYTHON, script).out
    if told != read(alone):
        raise Failure(f"without torpor {read(alone)!r}, under torpor run {told!r}")
    if "CapEff:\t0000000000000000" not in told:
        raise Failure(f"it holds capabilities: {told}")
    if os.geteuid() == 0:
        setuid = shutil.copy("/usr/bin/id", os.path.join(t.base, "id"))
        os.chmod(setuid, 0o4755)
        user = str(t.setup.account.pw_uid)
        with open(t.write("alone", ""), "w") as out:
            t.wait_exit(t.popen([setuid, "-u"], subprocess.DEVNULL, out, out))
        if read(alone).strip() != "0":
            raise Skip("the file system of the test is mounted nosuid")
        if t.torpor("run", setuid, "-u").out.strip() != user:
            raise Failure("a set-user-ID program has got rights in the namespace")


@case("run-name")
def run_name(t):
    """A program is dumped by its name, which it has again after a restore; stale and taken names are told."""
    begin(t)
    runtime = t.path("runtime")
    os.mkdir(runtime)
    t.setup.own(runtime)
    more = {"environment": {"XDG_RUNTIME_DIR": runtime}}
    pid, _ = t.torpor_start(["run", "-n", "sleeper", "sleep", "1000"], **more)
    program = t.below(pid)
    listed = [line for line in t.torpor("ps").out.splitlines() if line.split()[:1] == [str(program)]]
    if len(listed) != 1 or "E-TASK" in listed[0]:
        raise Failure(f"torpor ps does not say that it can be saved: {listed}")
    taken = t.torpor("run", "--name", "sleeper", "true", expect=1, **more).err
    for number in range(3):
        t.torpor("dump", "sleeper", "-o", t.image(str(number)), **more)
        if number == 0:
            expect_status(t, pid, -signal.SIGKILL)
        stale = t.torpor("dump", "sleeper", expect=1, **more).err
        missing = t.torpor("dump", "sleeper", expect=1, **more).err
        host = int(t.torpor("restore", t.image(str(number)), "--detach", **more).out)
    second = t.torpor("restore", t.image("0"), "--detach", **more)
    for text, words in ((taken, "E-NAME-TAKEN"), (stale, "has ended"), (missing, "E-NAME-NONE"), (second.err, "goes without")):
        if words not in text:
            raise Failure(f"{words!r} is not in {text!r}")
    for p in (host, int(second.out)):
        t.end(p)


@case("run-name-folder")
def run_name_folder(t):
    """A folder for names that others can write to is not used."""
    begin(t)
    runtime = t.path("runtime")
    os.makedirs(os.path.join(runtime, "torpor"))
    for path in (runtime, os.path.join(runtime, "torpor")):
        t.setup.own(path)
        os.chmod(path, 0o777)
    result = t.torpor("run", "--name", "some", "true", expect=3, environment={"XDG_RUNTIME_DIR": runtime})
    if "E-NAME-FOLDER" not in result.err:
        raise Failure(f"not told that the folder is not the user's alone: {result}")


@case("run-dump-inside")
def dump_inside(t):
    """Inside, a program is dumped by the PID that it has there, and the image is restored inside and outside."""
    begin(t)
    torpor, image = t.setup.binary, t.image()
    line = (f"sleep 1000 </dev/null >/dev/null 2>&1 & exec 2>log; {torpor} dump $! -o {image} && wait; "
            f"{torpor} restore {image} --detach --tier userns && {torpor} run {torpor} restore {image} --detach && echo $!")
    result = t.torpor("run", "bash", "-c", line)
    root = int(result.out.splitlines()[-1])
    t.restore(root)
    if comm_of(root) != "sleep":
        raise Failure(f"{root} is {comm_of(root)}")
    t.end(root)


@case("run-restored-outside")
def run_restored_outside(t):
    """What torpor run started is restored without a namespace, by a torpor that may choose PIDs, and back again."""
    begin(t)
    capable, plain = t.setup.capable, t.setup.binary
    pid, talk = run_at_pipes(t, PYTHON, t.target("dialogue.py"))
    talk.expect("ready\n")
    program = t.below(pid)
    root = inside(program)
    t.torpor("dump", program, "-o", t.image())
    expect_status(t, pid, -signal.SIGKILL)
    for number, (binary, tier) in enumerate(((capable, "cap"), (plain, "userns"), (capable, "cap")), 1):
        t.setup.binary, t.setup.tier = binary, tier
        pid, talk = restore_at_pipes(t)
        talk.send("word\n")
        talk.expect(f"{number}:word\n")
        t.torpor("dump", root if tier == "cap" else t.below(pid), "-o", t.image())
        expect_status(t, pid, -signal.SIGKILL)


@case("run-signals")
def run_signals(t):
    """A signal to torpor, or to the process group in which it and the program are (`kill %1`), reaches the program once."""
    begin(t)
    pid, talk = run_at_pipes(t, PYTHON, t.target("signals.py"))
    talk.expect("ready\n")
    root = inside(t.below(pid))
    signals = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH]
    for tier in ("userns", "cap", None):
        t.until(lambda: "torpor-witness" in [comm_of(p) for p in tree_of(pid)], 20, "torpor in the foreground")
        for send in (os.killpg, os.kill, os.killpg, os.kill):
            for signo in signals:
                send(pid, signo)
                talk.expect(rf"{signo.name} \d+\n")
                # Two of a kind that wait are one.
                t.until(lambda: re.search(r"^ShdPnd:\s*0+$", read(f"/proc/{pid}/status"), re.M), 10, "torpor has not read it")
        time.sleep(0.1)  # those that came twice would be there by now
        talk.send("\n")
        counts = set(talk.expect(r"in all (.*)\n").group(1).split())
        expected = {"userns": 4, "cap": 8, None: 12}[tier]
        if counts != {str(expected)}:
            raise Failure(f"{expected} signals of each kind were sent, {counts} came")
        t.torpor("dump", root if tier is None else t.below(pid), "-o", t.image())
        expect_status(t, pid, -signal.SIGKILL)
        if tier:
            t.setup.binary, t.setup.tier = (t.setup.capable if tier == "cap" else t.setup.binary), tier
            pid, talk = restore_at_pipes(t)


@case("run-jvm", needs=["java", "javac"], limit=120)
def run_jvm(t):
    """A JVM that was started by torpor run, and restored twice."""
    begin(t)
    argv = ["java", "-XX:+UseG1GC", "-Xms64m", "-Xmx192m", "-cp", compile_live(t), "Live", "32"]
    steps = Steps(t, LIVE)
    pid, _ = t.torpor_start(["run", *argv])
    steps.advance()
    program = t.below(pid)
    root = inside(program)
    t.torpor("dump", program, "-o", t.image())
    expect_status(t, pid, -signal.SIGKILL)
    for number in range(2):
        t.restore(root)
        steps.advance()
        t.dump(root)


# ---- what is refused ----

@case("refuse-namespace", needs=["unshare"])
def refuse_namespace(t):
    """A namespace that torpor has not made is refused; also if its init has the name of torpor's, when the network is another."""
    t.setup.give_up_capability()
    for name, more in (("somebody", []), ("torpor-init", ["--net"])):
        script = f"exec sh -c 'printf {name} >/proc/$$/comm; sleep 1000 & wait'"
        pid = t.start(["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc", *more, "bash", "-c", script])
        t.until(lambda: [comm_of(p) for p in tree_of(pid)[1:]] == [name, "sleep"], 10, "the namespace")
        program = tree_of(pid)[2]
        result = t.torpor("dump", program, "-o", t.image(), expect=1)
        if "E-TASK-NAMESPACE" not in result.err or not stat_of(program):
            raise Failure(f"not refused, or not left alone: {result}")
        t.end(pid)


@case("userns-pid-taken")
def pid_taken(t):
    """With the capability, PIDs that are taken are named with their holders, and the tier that works is offered."""
    t.setup.work_with_capability()
    root, talk = dialogue(t)
    t.dump(root, keep=True)
    result = t.torpor("restore", t.image(), "--detach", "--fd", "0=null", expect=1)
    if f"the PID {root} is taken by python3" not in result.err or "--tier userns" not in result.err:
        raise Failure(f"the holder or the tier is not told: {result}")
    t.setup.tier = "userns"
    pid, copy = restore_at_pipes(t)
    for one in (talk, copy):
        one.send("exit 0\n")
    expect_status(t, pid, 0)
    t.wait_exit(root)


@case("userns-locks", needs=["flock"])
def locks(t):
    """A lock (flock) whose taker has ended: it is seen inside, and kept."""
    begin(t)
    pid, _ = t.torpor_start(["run", "sh", "-c", "exec 9>file; flock 9; exec sleep 1000"])
    program = t.below(pid)
    t.until(lambda: comm_of(program) == "sleep", 10, "the lock")
    root = inside(program)
    t.torpor("dump", program, "-o", t.image())
    for expected in (0, 1):
        taken = subprocess.run(["flock", "-n", t.path("file"), "true"]).returncode
        if taken != expected:
            raise Failure(f"flock says {taken}, not {expected}, {'after' if expected else 'before'} the restore")
        if not expected:
            t.restore(root)
    t.end(root)


@case("userns-socket-names")
def socket_names(t):
    """Sockets are in the network namespace outside: a server that was restored serves clients there."""
    begin(t)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = ("import socket\ns = socket.create_server(('127.0.0.1', %d))\nopen('ready', 'w')\n"
              "while 1:\n c = s.accept()[0]\n c.sendall(b'served')\n c.close()" % port)
    root = t.start([PYTHON, "-c", server])
    t.until(lambda: os.path.exists(t.path("ready")), 20, "the server")
    t.cycle(root)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        if client.recv(100) != b"served":
            raise Failure("the restored server does not serve")
    t.end(root)
