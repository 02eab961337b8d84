#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""torpor as a privileged program: what it holds, what it hands on, whom it obeys (doc/security.md).

    security.py [--torpor FILE] [--list] [NAME...]

Needs root, which sets up users, files and capabilities. Set-up, user and reporting are those of tests/programs.
"""

import fcntl
import os
import random
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import main, read_bytes  # noqa: E402
from harness import PYTHON, Failure, Steps, case, finish, read, stat_of, state_of  # noqa: E402

CHECKPOINT = 1 << 40
SETS = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs".split()


CHANGES = 24


def status_of(pid):
    return dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status", "").splitlines() if ":\t" in line)


def credentials(pid):
    status = status_of(pid)
    return {name: status[name].split() for name in SETS}


def capabilities(pid, name):
    return int(status_of(pid)[name], 16)


def as_user(t, *options):
    """A launcher: setpriv to the ordinary user, with these options."""
    account = t.setup.account
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", *options]


AMBIENT = ["--inh-caps=+checkpoint_restore", "--ambient-caps=+checkpoint_restore"]


def hold(t, argv=(), **more):
    """A counting program. Returns (root, steps)."""
    steps = Steps(t, ["step"])
    root = t.start([*argv, PYTHON, "-B", t.target("plain.py"), "4"], **more)
    steps.advance(3, seconds=30)
    return root, steps


def same_credentials(root, before, when):
    after = credentials(root)
    if after != before:
        raise Failure(f"{when}, the credentials of {root} are others: {before} became {after}")


def wake(t, root, steps, before=None):
    before = before or credentials(root)
    t.dump(root)
    t.restore(root)
    same_credentials(root, before, "after the restore")
    steps.advance(3)
    finish(t, root, steps)


def dump_and_restore(t, root, steps, **more):
    """As wake(), by another user than the program's."""
    before = credentials(root)
    t.torpor("dump", root, "-o", t.image(), **more)
    t.expect_gone(root, [root])
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", "--pidfile", t.image("pid"), **more)
    same_credentials(root, before, "after the restore")
    steps.advance(3)
    finish(t, root, steps)


def refused(t, root, words, status=3, **more):
    t.statuses.clear()
    result = t.torpor("restore", t.image(), "--detach", expect=status, **more)
    if not re.search(words, result.err, re.S):
        raise Failure(f"torpor does not say {words!r}: {result}")
    if stat_of(root):
        raise Failure(f"the refused restore left {root}")
    return result


# ---- what torpor holds, and hands on ----

@case("holds-nothing-while-it-waits", needs=["setpriv"])
def waits(t):
    """In the foreground, torpor is the parent of what it restored, and needs nothing any more."""
    root, steps = hold(t)
    before = credentials(root)
    t.dump(root)
    pid, call = t.torpor_start(["restore", t.image()])
    t.until(lambda: stat_of(root) or pid in t.statuses, 10, "the restore")
    steps.advance(3)
    same_credentials(root, before, "in the foreground")
    for name in ("CapPrm", "CapEff", "CapAmb"):
        if capabilities(pid, name):
            raise Failure(f"waiting, torpor holds {name} {capabilities(pid, name):#x}")
    t.write("stop", "")
    if t.wait_exit(pid, 30) != 0:
        raise Failure(f"torpor ended with {t.statuses[pid]}: {t.errors(call)}")


@case("ambient-capability", needs=["setpriv"])
def ambient(t):
    """An ambient capability serves as well as one of the file, and goes no further."""
    root, steps = hold(t)
    t.setup.give_up_capability()
    t.launcher = as_user(t, *AMBIENT)
    wake(t, root, steps)


@case("capable-program", needs=["setpriv"])
def capable_program(t):
    """A program that holds the capability: only who holds it, too, may give it back; a file capability is not enough."""
    root, steps = hold(t, as_user(t, *AMBIENT), user=False)
    before = credentials(root)
    if int(before["CapAmb"][0], 16) != CHECKPOINT:
        raise Failure(f"the program holds {before}")
    t.dump(root)
    refused(t, root, "it held capabilities .* that you do not have")
    t.setup.give_up_capability()
    t.launcher = as_user(t, *AMBIENT)
    t.restore(root)
    same_credentials(root, before, "after the restore")
    steps.advance(3)
    finish(t, root, steps)


@case("inheritable-capability", needs=["setpriv"])
def inheritable(t):
    """Nor does an image make the capability inheritable."""
    root, steps = hold(t, as_user(t, "--inh-caps=+checkpoint_restore"), user=False)
    before = credentials(root)
    t.dump(root)
    refused(t, root, "inheritable capabilities .* are not yours to give")
    t.launcher = as_user(t, "--inh-caps=+checkpoint_restore")
    t.restore(root)
    same_credentials(root, before, "after the restore")
    steps.advance(3)
    finish(t, root, steps)


@case("set-user-id")
def set_user_id(t):
    """A torpor that is set-user-ID does nothing at all."""
    root, steps = hold(t)
    t.dump(root)
    path = os.path.join(t.setup.folder, "bin", "setuid")
    shutil.copyfile(t.setup.binary, path)
    os.chmod(path, 0o4755)
    t.setup.binary = path
    refused(t, root, "must not be set-user-ID")


@case("no-new-privs", needs=["setpriv"])
def no_new_privs(t):
    """Then the file capability is not in force: a dump works all the same, a restore says why it does not."""
    root, steps = hold(t)
    t.launcher = as_user(t) + ["setpriv", "--no-new-privs"]
    t.dump(root)
    result = t.torpor("restore", t.image(), "--detach", "--pidfile", t.image("pid"), expect=None)
    if result.status == 0:
        return  # another tier could
    if "no_new_privs is set" not in result.err:
        raise Failure(f"torpor does not say why: {result}")


@case("reduced-bounding-set", needs=["setpriv"])
def reduced_bounding_set(t):
    """In a container that lacks most capabilities, programs that lack them as well come back."""
    few = "--bounding-set=-all,+checkpoint_restore,+setuid,+setgid"
    root, steps = hold(t, as_user(t, few), user=False)
    t.launcher = as_user(t, few)
    wake(t, root, steps)


# ---- root ----

@case("root-other-user", needs=["setpriv"])
def root_other_user(t):
    """Root saves the program of an ordinary user, with other groups, and makes it that user's again."""
    root, steps = hold(t, as_user(t)[:3] + ["--groups=4711,5"], user=False)
    dump_and_restore(t, root, steps, user=False)


@case("root-smaller-bounding-set", needs=["setpriv"])
def root_smaller_bounding_set(t):
    """The program had a smaller bounding set than root's torpor: it has it again."""
    root, steps = hold(t, as_user(t, "--bounding-set=-all,+chown"), user=False)
    dump_and_restore(t, root, steps, user=False)


@case("root-own-program")
def root_own_program(t):
    """A program of root gets all its capabilities back, also those that torpor never uses."""
    root, steps = hold(t, user=False)
    dump_and_restore(t, root, steps, user=False)


@case("root-reduced", needs=["setpriv"])
def root_reduced(t):
    """Root in a container, with the capabilities that Docker leaves and the one that is needed."""
    docker = ("--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,"
              "+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap,+checkpoint_restore,+sys_ptrace")
    root, steps = hold(t, ["setpriv", docker], user=False)
    t.launcher = ["setpriv", docker]
    dump_and_restore(t, root, steps)


# ---- whose image it is ----

@case("foreign-image")
def foreign_image(t):
    root, steps = hold(t)
    t.dump(root)
    os.chown(t.image(), 0, 0)
    os.chmod(t.image(), 0o644)
    refused(t, root, "belongs to user 0, and you are user .*--allow-foreign-image")
    t.setup.own(t.image())
    os.chmod(t.image(), 0o666)
    refused(t, root, "can be written to by others.*--allow-foreign-image")
    t.statuses.clear()
    t.torpor("restore", t.image(), "--allow-foreign-image", "--detach", "--pidfile", t.image("pid"))
    steps.advance(3)
    finish(t, root, steps)


@case("unreadable-image")
def unreadable_image(t):
    """torpor opens an image as its caller may."""
    root, steps = hold(t)
    t.dump(root)
    os.chown(t.image(), 0, 0)
    os.chmod(t.image(), 0o600)
    for command in ("restore", "verify", "inspect"):
        result = t.torpor(command, t.image(), expect=None)
        if result.status not in (3, 5) or "Permission denied" not in result.err:
            raise Failure(f"{command} of an image that the caller may not read: {result}")


@case("changing-image", limit=180)
def changing_image(t):
    """An image that is written to while it is read: refused, or restored as its owner has written it; nothing else."""
    root, steps = hold(t)
    t.dump(root)
    whole = read_bytes(t.image())
    chooser = random.Random(3)
    for number in range(CHANGES):
        with open(t.image("changing"), "wb") as file:
            file.write(whole)
        t.setup.own(t.image("changing"))
        t.statuses.clear()
        pid, call = t.torpor_start(["restore", t.image("changing"), "--detach", "--pidfile", t.image("pid")])
        while pid not in t.statuses:
            with open(t.image("changing"), "r+b") as file:
                if number % 4 == 3:
                    file.truncate(chooser.randrange(len(whole)))
                else:
                    file.seek(chooser.randrange(len(whole)))
                    file.write(chooser.randbytes(64))
            t.reap()
        status = t.statuses[pid]
        t.log(f"restore {number + 1}: {status}, {t.errors(call).strip()[:200]}")
        if status not in (0, 1, 4, 5):
            raise Failure(f"restore {number + 1} ended with {status}: {t.errors(call)}")
        if status == 0:
            t.end(root)
        t.until(lambda: not stat_of(root), 10, f"the end of what restore {number + 1} has left (status {status})")


# ---- the environment ----

PRELOADED = """
#include <fcntl.h>
__attribute__((constructor)) static void loaded(void) { open(MARK, O_CREAT | O_WRONLY, 0600); }
"""


@case("hostile-environment", needs=["cc"])
def hostile_environment(t):
    """Nothing in the environment gets code into a torpor with a file capability; into another program, it does."""
    mark = t.path("mark")
    source, library = t.write("preloaded.c", PRELOADED), t.path("preloaded.so")
    subprocess.run(["cc", "-shared", "-fPIC", f'-DMARK="{mark}"', "-o", library, source], check=True)
    hostile = {"LD_PRELOAD": library, "LD_AUDIT": library, "LD_LIBRARY_PATH": t.work, "GCONV_PATH": t.work, "LOCPATH": t.work,
               "LD_DEBUG": "all", "LD_DEBUG_OUTPUT": t.path("debug"), "TMPDIR": "/proc", "PATH": t.work, "HOME": "/proc",
               "POSIXLY_CORRECT": "1", "LC_ALL": "\x1b[31m", "MALLOC_TRACE": t.path("trace"), "IFS": "/"}
    root, steps = hold(t)
    for arguments in (["check", root], ["dump", root, "-o", t.image()], ["restore", "--detach", t.image()]):
        t.statuses.clear()
        t.torpor(*arguments, environment=hostile)
    steps.advance(3)
    if os.path.exists(mark) or any(name.startswith(("debug", "trace")) for name in os.listdir(t.work)):
        raise Failure(f"the environment was obeyed: {os.listdir(t.work)}")
    finish(t, root, steps)
    t.wait_exit(t.start(["/bin/true"], environment=hostile))
    if not os.path.exists(mark):
        raise Failure("the library is not loaded where it should be: this test shows nothing")


@case("odd-descriptors")
def odd_descriptors(t):
    """Whatever fds torpor is started with, and without standard streams: a restored program has its own, and no other."""
    root, steps = hold(t)
    before = sorted(os.listdir(f"/proc/{root}/fd"))
    opened = [os.open(os.path.join(t.base, "secret"), os.O_RDWR | os.O_CREAT, 0o600), *os.pipe()]
    secret, *ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 600) for fd in opened]  # out of the way of what follows
    for fd in opened:
        os.close(fd)
    numbers = [os.dup2(secret, n, inheritable=True) for n in (3, 63, 64, 65, 66, 200, 500)]
    numbers += [os.dup2(ends[0], 90, inheritable=True), os.dup2(ends[1], 91, inheritable=True)]
    script = 'exec "$0" "$@" <&- >&- 2>&-'
    for arguments in (["dump", str(root), "-o", t.image()], ["restore", t.image(), "--detach"]):
        t.statuses.clear()
        account = t.setup.user_arguments()
        process = subprocess.Popen(["sh", "-c", script, t.setup.binary, *arguments], cwd=t.work, pass_fds=numbers, **account)
        process.returncode = 0
        if t.wait_exit(process.pid, 30) != 0:
            raise Failure(f"torpor {arguments} ended with {t.statuses[process.pid]}")
    for n in [*numbers, secret, *ends]:
        os.close(n)
    after = sorted(os.listdir(f"/proc/{root}/fd"))
    if after != before:
        raise Failure(f"the fds {before} became {after}")
    steps.advance(3)
    finish(t, root, steps)


LIMITS = ["--nofile=0:0", "--nofile=4:4", "--nofile=20:20", "--fsize=0", "--as=2000000", "--as=20000000", "--data=0", "--stack=65536",
          "--nproc=0:0", "--core=0", "--memlock=0", "--sigpending=0", "--msgqueue=0", "--cpu=1"]


def ended_properly(t, limit, result):
    """With a message of its own; but with some limits no program can even be loaded."""
    if 0 <= result.status <= 5:
        return
    other = subprocess.run(["prlimit", limit, PYTHON, "-c", ""], capture_output=True)
    if other.returncode == 0:
        raise Failure(f"with {limit}, {result.argv[0]} ended with {result}")


@case("no-resources", needs=["prlimit"], limit=240)
def no_resources(t):
    """With next to nothing torpor fails or works, and harms nothing."""
    root, steps = hold(t)
    t.dump(root, "good", keep=True)
    for limit in LIMITS:
        t.launcher = as_user(t) + ["prlimit", limit]
        result = t.torpor("dump", root, "--keep-running", "-o", t.image(), expect=None)
        ended_properly(t, limit, result)
        if result.status != 0 and os.path.exists(t.image()):
            raise Failure(f"the failed dump with {limit} left an image")
        t.untraced(root)
        steps.advance(2)
        if os.path.exists(t.image()):
            os.unlink(t.image())
    t.end(root)
    # What the copy in `good` wrote after the dump belongs to the one that ran on.
    for limit in LIMITS:
        t.launcher = as_user(t) + ["prlimit", limit]
        t.statuses.clear()
        result = t.torpor("restore", t.image("good"), "--allow-changed-files", "--detach", expect=None)
        ended_properly(t, limit, result)
        if result.status == 0:
            t.end(root)  # if it has not found out yet that it may not write any more
        elif stat_of(root):
            raise Failure(f"the failed restore with {limit} left {root}")


# ---- where the image goes ----

@case("output-symlink")
def output_symlink(t):
    """A symbolic link at the image's place is replaced, not followed."""
    root, steps = hold(t)
    victim = t.write("victim", "precious")
    os.symlink(victim, t.image())
    os.lchown(t.image(), t.setup.account.pw_uid, t.setup.account.pw_gid)
    before = credentials(root)
    t.torpor("dump", root, "-o", t.image())
    if read(victim) != "precious" or os.path.islink(t.image()):
        raise Failure("the link was followed")
    t.expect_gone(root, [root])
    t.restore(root)
    same_credentials(root, before, "after the restore")
    finish(t, root, steps)


@case("output-shared-folder")
def output_shared_folder(t):
    """In a folder like /tmp, another user's link or file at the image's place is left alone, and the program runs on."""
    root, steps = hold(t)
    shared = os.path.join(t.base, "shared")
    os.mkdir(shared)
    os.chmod(shared, 0o1777)
    victim = os.path.join(t.base, "victim")
    place = os.path.join(shared, "image")
    for make in (lambda: os.symlink(victim, place), lambda: open(place, "w").close()):
        with open(victim, "w") as file:
            file.write("precious")
        make()
        result = t.torpor("dump", root, "-o", place, expect=None)
        if result.status == 0 or read(victim) != "precious" or os.listdir(shared) != ["image"]:
            raise Failure(f"{result}; the folder has {os.listdir(shared)}")
        t.untraced(root)
        steps.advance(2)
        os.unlink(place)
    t.torpor("dump", root, "-o", place)
    if os.stat(place).st_mode & 0o077:
        raise Failure(f"others may read the image: mode {os.stat(place).st_mode:o}")


# ---- whom torpor looks at ----

def dump_refused(t, root):
    result = t.torpor("dump", root, "-o", t.image(), expect=3)
    if os.path.exists(t.image()) or state_of(root) in ("", *"ZTt"):
        raise Failure(f"the refused dump did not leave {root} alone: {result}")
    return result


@case("set-user-id-target")
def set_user_id_target(t):
    """The file capability is none to look into programs that run with more than the user's privileges."""
    path = os.path.join(t.base, "sleep")
    shutil.copyfile(shutil.which("sleep"), path)
    os.chmod(path, 0o4755)
    dump_refused(t, t.start([path, "1000"]))


@case("execute-only-target")
def execute_only_target(t):
    """Nor to read a program that the user may execute but not read."""
    path = os.path.join(t.base, "sleep")
    shutil.copyfile(shutil.which("sleep"), path)
    os.chmod(path, 0o711)
    dump_refused(t, t.start([path, "1000"]))


@case("foreign-target")
def foreign_target(t):
    root = t.popen(["sleep", "1000"], subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL, user=False)
    t.until(lambda: read(f"/proc/{root}/comm") == "sleep\n", 5, "the start of sleep")
    dump_refused(t, root)


@case("capable-target", needs=["setpriv"])
def capable_target(t):
    """A program with capabilities that torpor does not have."""
    root = t.popen(as_user(t, "--inh-caps=+net_raw", "--ambient-caps=+net_raw") + ["sleep", "1000"], subprocess.DEVNULL,
                   subprocess.DEVNULL, subprocess.DEVNULL, user=False)
    t.until(lambda: read(f"/proc/{root}/comm") == "sleep\n", 5, "the start of sleep")
    dump_refused(t, root)


@case("deceitful-name")
def deceitful_name(t):
    """The name of a program is its own to choose: it is no path, and does nothing to a terminal."""
    script = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'../\\x1b]0;x\\x07/..'); time.sleep(1000)"
    root = t.start([PYTHON, "-c", script])
    t.until(lambda: "x" in read(f"/proc/{root}/comm", ""), 10, "its name")
    t.until(lambda: read(f"/proc/{root}/wchan", "") != "0", 5, "its sleep")
    result = t.torpor("dump", root, "-vv", cwd=t.images)
    names = os.listdir(t.images)
    if len(names) != 1 or "\x1b" in result.out + result.err:
        raise Failure(f"the image is in {names}; torpor said {result.out + result.err!r}")


if __name__ == "__main__":
    sys.exit(main(__doc__, needs_root=True))
