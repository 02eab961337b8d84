#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""torpor as a privileged program: what it holds, what it hands on, whom it obeys (doc/security.md).

    security.py [--torpor FILE] [--list] [NAME...]

Needs root, which sets up users, files and capabilities. Set-up, user and reporting are those of tests/programs.
"""

import argparse
import fnmatch
import os
import re
import shutil
import signal
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import run  # noqa: E402
from harness import PYTHON, Failure, Skip, Steps, case, finish, read, stat_of  # noqa: E402

CHECKPOINT = 1 << 40
SETS = "Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs".split()


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


# ---- all of it ----

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.path.join(HERE, "..", "..", "build", "torpor")
    parser.add_argument("--torpor", default=os.path.normpath(default))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    cases = [c for c in harness.CASES
             if not options.names or any(fnmatch.fnmatch(c.name, n) for n in options.names)]
    if options.list:
        print("\n".join(c.name for c in cases))
        return 0
    if os.geteuid() != 0:
        print("security.py needs root\n0 passed, 0 failed")
        return 0
    if not os.access(options.torpor, os.X_OK):
        sys.exit(f"security.py: {options.torpor} is not there; build it first")
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    setup = run.make_setup(os.path.abspath(options.torpor))
    counts = run.run(setup, cases, 1)
    return run.close(setup, counts)


if __name__ == "__main__":
    sys.exit(main())
