#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that do not stop, are held by somebody else, or whose surroundings have gone: a clear refusal, never a hang.

    targets.py [--torpor FILE] [--list] [NAME...]

Programs that end, execute, fork or are killed while they are saved, and two dumps at once, are in kill.py.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Before, Steady, alive, compile_steady, files, kill_tree, main, read_bytes  # noqa: E402
from harness import COMPILER, PYTHON, Failure, Skip, case, compiled_once, read, stat_of, threads_of, tree_of  # noqa: E402


def refused(t, arguments, status, words, seconds=10):
    result = t.torpor(*arguments, expect=status, seconds=seconds)
    if not re.search(words, result.err) or files(t):
        raise Failure(f"{result}, and these files: {files(t)}")
    return result


@case("target-in-vfork", needs=["cc"])
def target_in_vfork(t):
    """A parent in vfork(2) whose child does not execute anything: uninterruptible for as long as that takes."""
    source = t.write("vfork.c", """
#include <fcntl.h>
#include <unistd.h>
int main(void)
{
	int go;
	if (vfork() == 0) {
		close(open("born", O_CREAT | O_WRONLY, 0644));
		while ((go = access("go", F_OK)))
			usleep(1000);
		_exit(7);
	}
	close(open("on", O_CREAT | O_WRONLY, 0644));
	pause();
}
""")
    program = t.path("vfork")
    subprocess.run([*COMPILER, "-O1", "-w", "-o", program, source], check=True)
    root = t.start([program])
    t.until(lambda: os.path.exists(t.path("born")), 5, "the start of the program")
    for seconds in ("0.3", "1"):
        result = refused(t, ["dump", root, "-o", t.image(), "--timeout", seconds], 5, "does not stop within .*uninterruptibly")
        if "--timeout" not in result.err or result.seconds > float(seconds) + 3:
            raise Failure(f"after {result.seconds:.1f} s: {result}")
        t.untraced(root)
    t.write("go", "")
    t.until(lambda: os.path.exists(t.path("on")), 5, "the parent does not go on")
    # It has a zombie now, and can be saved.
    t.torpor("dump", root, "-o", t.image())
    t.expect_gone(root, [root])
    t.restore(root)
    if not alive(root):
        raise Failure("it does not live after the restore")


@case("target-traced", needs=["strace"])
def target_traced(t):
    """Somebody else's tracee is refused by the name of its tracer, and goes on being traced."""
    program = Steady(t)
    with t.output("strace.err") as err:
        tracer = t.popen(["strace", "-f", "-o", "/dev/null", "-p", str(program.root)], subprocess.DEVNULL, err, err)
    t.until(lambda: f"\nTracerPid:\t{tracer}\n" in read(f"/proc/{program.root}/status"), 10, "strace does not trace it")
    refused(t, ["dump", program.root, "-o", t.image()], 1, f"process {tracer} is tracing it")
    program.check()
    os.kill(tracer, signal.SIGTERM)
    t.wait_exit(tracer, 10)
    t.torpor("dump", program.root, "-o", t.image(), "--keep-running")
    program.check()


@case("restore-traced", needs=["strace", "setpriv"])
def restore_traced(t):
    """A restore under strace -f, which traces whatever torpor makes, names the tracer; nothing is left."""
    program = Steady(t)
    members = tree_of(program.root)
    t.torpor("dump", program.root, "-o", t.image())
    t.expect_gone(program.root, members)
    # The tracer is root, or the kernel would not give torpor its capability.
    t.launcher = ["strace", "-f", "-qq", "-o", "/dev/null", *(["-u", t.setup.account.pw_name] if t.setup.account else [])]
    result = t.torpor("restore", t.image(), "--detach", expect=1)
    t.launcher = []
    if "E-TASK-TRACED" not in result.err or "strace" not in result.err:
        raise Failure(f"it does not say who traces: {result}")
    t.until(lambda: not any(stat_of(p) for p in members), 5, "something is left")
    t.restore(program.root)
    program.check()


@case("target-thread")
def target_thread(t):
    """The TID of a thread that is not the first one is no process."""
    program = Steady(t)
    tid = next(tid for tid in threads_of(program.root) if tid != program.root)
    result = t.torpor("dump", tid, "-o", t.image(), expect=None)
    if result.status not in (1, 2) or str(program.root) not in result.err or files(t):
        raise Failure(f"dump of thread {tid}: {result}")
    program.check()


@case("restore-folder-vanished")
def folder_vanished(t):
    """The working folder was removed after the dump, or is a file now: refused, nothing left, and it works when it is back."""
    folder = t.path("folder")
    os.mkdir(folder)
    t.setup.own(folder)
    root = t.start([PYTHON, "-B", "-c", "import time\nopen('up', 'w').close()\ntime.sleep(1000)"], cwd=folder)
    t.until(lambda: os.path.exists(folder + "/up"), 5, "the start of the program")
    t.dump(root)
    content = read_bytes(t.image())
    shutil.rmtree(folder)
    for make in (lambda: None, lambda: open(folder, "w").close()):
        make()
        result = t.torpor("restore", t.image(), "--detach", expect=None)
        if result.status not in (1, 5) or folder not in result.err:
            raise Failure(f"restore without the folder: {result}")
        t.until(lambda: not stat_of(root) and not tree_of(os.getpid())[1:], 5, "processes are left")
        if read_bytes(t.image()) != content or files(t) != [os.path.basename(t.image())]:
            raise Failure(f"the image has changed, or there are other files: {files(t)}")
    os.unlink(folder)
    os.mkdir(folder)
    t.setup.own(folder)
    result = t.torpor("restore", t.image(), "--detach", expect=None)
    if result.status not in (0, 1) or result.status == 1 and "folder" not in result.err:
        raise Failure(f"restore with a new folder: {result}")


@case("restore-twice")
def restore_twice(t):
    """A tree that runs already is not made a second time, and does not notice the attempt."""
    program = Steady(t, 2)
    program.mark()
    t.dump(program.root)
    t.restore(program.root)
    program.again()
    before = Before(program.root)
    result = t.torpor("restore", t.image(), "--detach", expect=1)
    if "taken" not in result.err:
        raise Failure(f"a second restore: {result}")
    program.check()
    before.expect_same(t)


# What newer kernels brought, and torpor cannot do without everywhere; programs/old_kernel.py has what it replaces.
NEWER = {"close_range": 436, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "clone3": 435, "openat2": 437,
         "process_madvise": 440, "userfaultfd": 323, "kcmp": 312, "statmount": 457}


@case("kernel-without-a-call", needs=["cc"], limit=300)
def without_a_call(t):
    """A kernel (or a filter) that refuses one system call: torpor manages without, or says why; the program is unharmed."""
    if t.setup.account is None:
        raise Skip("only root can set a filter and keep the file capability")
    launcher = [compiled_once(t.path("without"), t.target("without.c"), "-O1"), str(t.setup.account.pw_uid),
                str(t.setup.account.pw_gid)]
    program = Steady(t, 1)
    root, outcomes = program.root, {}

    def lacking(name, number, answer, *arguments):
        t.launcher = ["env", f"WITHOUT={number}:{answer}", *launcher]
        try:
            result = t.torpor(*arguments, expect=None, seconds=120)  # it may fork until a PID comes up
        finally:
            t.launcher = []
        if result.status not in (0, 1, 3, 5) or result.status and "torpor: " not in result.err:
            raise Failure(f"without {name} ({os.strerror(answer)}): {result}")
        outcome = f"{arguments[0]} {'done all the same' if result.status == 0 else 'refused'}"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        return result.status == 0

    ways = [(name, number, answer) for name, number in NEWER.items() for answer in (errno.ENOSYS, errno.EPERM)]
    before = Before(root)
    for way in ways:
        done = lacking(*way, "dump", root, "-o", t.image(), "--keep-running")
        if files(t) != ([os.path.basename(t.image())] if done else []):
            raise Failure(f"without {way}: {done}, and these files: {files(t)}")
        if done:
            t.torpor("verify", t.image())
            os.unlink(t.image())
        program.check()
        before.expect_same(t)
    program.mark()
    members = tree_of(root)
    t.dump(root)
    content = read_bytes(t.image())
    for way in ways:
        t.statuses.clear()
        if lacking(*way, "restore", t.image(), "--detach"):
            program.again()
            kill_tree(t, root)
        t.until(lambda: not any(stat_of(p) for p in members) and not tree_of(os.getpid())[1:], 5,
                f"without {way}: processes are left")
        if read_bytes(t.image()) != content or files(t) != [os.path.basename(t.image())]:
            raise Failure(f"without {way}: the image has changed, or there are other files: {files(t)}")
    print(f"    {t.name}: {', '.join(f'{n} {o}' for o, n in sorted(outcomes.items()))}", flush=True)


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
