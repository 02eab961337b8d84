#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the kernel permits to whom: does `torpor check` tell the truth, and what does the capability open?

    run.py [--torpor FILE] [--list] [NAME...]

Needs root, which sets up users, capabilities, namespaces and filters. Set-up, user and reporting are those of
tests/programs.
"""

import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import run  # noqa: E402
from harness import PYTHON, Failure, Skip, Steps, as_user, case, finish, stat_of, state_of  # noqa: E402

SCHEMA = os.path.join(HERE, "..", "..", "doc", "check.schema.json")
ALWAYS = """ptrace proc_mem process_vm_readv pidfd_getfd tid_address ptrace_child mm_map children kcmp sock_diag
inet_diag""".split()  # with the kernel and settings of any machine where the tests make sense
CAPABILITY = "set_tid ns_last_pid mm_map_exe map_files".split()
NAMESPACES = "user_ns pid_ns mount_ns time_ns".split()
OF_ROOT = "tcp_repair seccomp".split()


def program(t, name):
    """A compiled program of this folder."""
    return harness.compiled_once(os.path.join(t.setup.folder, "bin", name), os.path.join(HERE, name + ".c"), "-std=gnu17",
                                 "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-O1")


NO_NEW_PRIVS = ["setpriv", "--no-new-privs"]  # in a program of its own: a change of user alone leaves root's capabilities


# ---- torpor check ----

def validate(answer):
    try:
        import jsonschema
    except ImportError:
        raise Skip("the Python module jsonschema is not installed")
    with open(SCHEMA) as file:
        jsonschema.Draft202012Validator(json.load(file)).validate(answer)


def check(t, works=(), fails=(), **more):
    """What `torpor check --json` says, as {probe: its entry}. It must agree with what is expected."""
    result = t.torpor("check", "--json", expect=None, **more)
    answer = json.loads(result.out)
    validate(answer)
    probes = {p["id"]: p for p in answer["probes"]}
    for name in works:
        if not probes[name]["works"]:
            raise Failure(f"{name} is said not to work: {probes[name]}")
    for name in fails:
        if probes[name]["works"]:
            raise Failure(f"{name} is said to work")
    if result.status != (0 if answer["dump"] and answer["restore"] else 3):
        raise Failure(f"exit status {result.status} with dump {answer['dump']}, restore {answer['restore']}")
    text = t.torpor("check", expect=result.status, **more).out
    for p in answer["probes"]:
        row = next((line for line in text.splitlines() if line[7:].startswith(p["what"] + " ")), None)
        if not row or row.split()[0] != ("yes" if p["works"] else "NO"):
            raise Failure(f"the table does not agree with the JSON on {p}: {row!r}")
    return probes, answer


def tiers(answer):
    return {tier["name"]: tier for tier in answer["tiers"]}


def says(probe, key, words):
    if words not in probe[key]:
        raise Failure(f"{key} of {probe['id']} does not speak of {words!r}: {probe[key]!r}")


@case("check-root")
def check_root(t):
    _, answer = check(t, [*ALWAYS, *CAPABILITY, *NAMESPACES, *OF_ROOT], user=False)
    if not tiers(answer)["root"]["works"]:
        raise Failure(f"tier root: {tiers(answer)}")


@case("check-capability")
def check_capability(t):
    probes, answer = check(t, [*ALWAYS, *CAPABILITY, *NAMESPACES], OF_ROOT)
    says(probes["tcp_repair"], "help", "CAP_NET_ADMIN")
    if not tiers(answer)["cap"]["works"] or tiers(answer)["root"]["works"] or answer["restore_tier"] != "cap":
        raise Failure(f"tiers: {answer['tiers']}")


@case("check-nothing")
def check_nothing(t):
    t.setup.give_up_capability()
    probes, answer = check(t, [*ALWAYS, *NAMESPACES, "fork"], [*CAPABILITY, *OF_ROOT])
    for name in CAPABILITY:
        says(probes[name], "help", "CAP_CHECKPOINT_RESTORE")
    if not answer["dump"] or tiers(answer)["cap"]["works"] or tiers(answer)["cap"]["missing"] != "set_tid":
        raise Failure(f"tiers: {answer['tiers']}")


def namespace_without_namespaces(t):
    """A command that runs another as the same user, in a user namespace where none can be made below it."""
    account = t.setup.account
    return ["unshare", "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}", "--keep-caps", "sh", "-c",
            'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all "$@"', "sh"]


@case("check-no-namespaces", needs=["unshare", "setpriv"])
def check_no_namespaces(t):
    """The number of user namespaces is limited to none, by the sysctl itself."""
    t.setup.give_up_capability()
    t.launcher = as_user(t) + namespace_without_namespaces(t)
    probes, answer = check(t, ALWAYS, [*NAMESPACES, *CAPABILITY])
    for name in NAMESPACES:
        says(probes[name], "detail", "/proc/sys/user/max_user_namespaces is 0")
        says(probes[name], "help", "user.max_user_namespaces")
    if tiers(answer)["userns"]["works"] or not answer["dump"]:
        raise Failure(f"tiers: {answer['tiers']}")


@case("check-filtered-namespaces")
def check_filtered_namespaces(t):
    """Namespaces are forbidden, and the sysctls do not say so."""
    t.setup.give_up_capability()
    t.launcher = [program(t, "confine"), "namespaces", *as_user(t)]
    probes, answer = check(t, ALWAYS, [*NAMESPACES, *CAPABILITY])
    if tiers(answer)["userns"]["works"] or probes["user_ns"]["error"] != os.strerror(1):
        raise Failure(f"tiers: {answer['tiers']}, {probes['user_ns']}")


@case("check-no-ptrace")
def check_no_ptrace(t):
    t.launcher = [program(t, "confine"), "ptrace", *as_user(t)]
    probes, answer = check(t, ["set_tid"], ["ptrace", "ptrace_child", "seccomp"])
    says(probes["ptrace"], "help", "Yama")
    if answer["dump"] or answer["restore"]:
        raise Failure(f"dump and restore are said to work: {answer['tiers']}")


@case("check-no-clone3")
def check_no_clone3(t):
    """An old kernel: PIDs are chosen by ns_last_pid."""
    t.launcher = [program(t, "confine"), "clone3", *as_user(t)]
    probes, answer = check(t, ["ns_last_pid"], ["set_tid"])
    says(probes["set_tid"], "help", "Linux 5.5")
    if not tiers(answer)["cap"]["works"]:
        raise Failure(f"tiers: {answer['tiers']}")


@case("check-no-new-privs", needs=["setpriv"])
def check_no_new_privs(t):
    t.launcher = [*as_user(t), *NO_NEW_PRIVS]
    probes, answer = check(t, [*ALWAYS, *NAMESPACES], CAPABILITY)
    for text in (answer.get("capability", ""), probes["set_tid"]["help"]):
        if "no_new_privs" not in text:
            raise Failure(f"not told why the capability is not in force: {text!r}")


@case("check-docker", needs=["setpriv"])
def check_docker(t):
    """Docker's default seccomp profile, and no capability."""
    t.launcher = [program(t, "confine"), "docker", *as_user(t), *NO_NEW_PRIVS]
    probes, answer = check(t, ["ptrace", "proc_mem", "process_vm_readv", "mm_map", "sock_diag", "fork"],
                           [*NAMESPACES, *CAPABILITY, "pidfd_getfd", "kcmp", "userfaultfd"])
    says(probes["pidfd_getfd"], "help", "SYS_PTRACE")


# ---- what the capability opens ----

DOCUMENT = os.path.join(HERE, "..", "..", "doc", "capability.md")


def foreign(t):
    """A process and a file of root."""
    process = t.popen(["sleep", "1000"], subprocess.DEVNULL, subprocess.DEVNULL, subprocess.DEVNULL, user=False)
    path = os.path.join(t.base, "secret")
    with open(path, "w") as file:
        os.fchmod(file.fileno(), 0o600)
    return process, path


@case("capability", needs=["setpriv", "unshare"])
def capability(t):
    """Each operation as each subject; every outcome must be the expected one. The table is in the log."""
    binary = program(t, "capability")
    user = as_user(t)
    launchers = {
        "nothing": [*user, "setpriv"],  # once more: a change of user alone leaves root's capabilities
        "capability": [*user, "--inh-caps=+checkpoint_restore", "--ambient-caps=+checkpoint_restore"],
        "namespace": [*user, "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--mount-proc", "--net",
                      "--ipc", "--uts"],
        "root": [],
    }
    process, path = foreign(t)
    wrong, rows = [], {}
    for subject, launcher in launchers.items():
        done = subprocess.run([*launcher, binary, subject, str(process), path], capture_output=True, text=True, timeout=60,
                              cwd=t.work)
        lines = [line.split() for line in done.stdout.splitlines()]
        for name, got, expected in lines:
            rows.setdefault(name, []).append(got)
            if expected != "ok":
                wrong.append(f"{name} as {subject}: {got}, expected {expected}")
        if done.returncode or len(lines) != len(rows):
            raise Failure(f"as {subject}, {len(lines)} of {len(rows)} operations were tried: {done.stderr}")
    for name, outcomes in rows.items():
        t.log(" ".join(f"{text:16}" for text in (name, *outcomes)))
    t.end(process)
    if wrong:
        raise Failure("; ".join(wrong))


@case("capability-document")
def capability_document(t):
    table = subprocess.run([program(t, "capability"), "--table"], capture_output=True, text=True, check=True).stdout
    if table not in harness.read(DOCUMENT, ""):
        raise Failure("doc/capability.md does not have the table that `capability --table` prints")


# ---- real programs, where much is forbidden ----

DOCKER = """+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,
+mknod,+audit_write,+setfcap""".replace("\n", "")


def hold(t, *launcher, user=True):
    steps = Steps(t, ["step"])
    root = t.start([*launcher, PYTHON, "-B", t.target("plain.py"), "4"], user=user)
    steps.advance(3, seconds=30)
    return root, steps


def woken(t, root, steps, *arguments):
    t.dump(root)
    t.statuses.clear()
    result = t.torpor("restore", t.image(), "--detach", "--pidfile", t.image("pid"), *arguments)
    if "tier userns" in result.err:
        t.look_inside(root, int(harness.read(t.image("pid"))))
    steps.advance(3)
    finish(t, root, steps)
    return result


@case("docker-nothing", needs=["setpriv"])
def docker_nothing(t):
    """An ordinary user without any capability in a container with Docker's profile, started with --cap-add SYS_PTRACE."""
    t.setup.give_up_capability()
    root, steps = hold(t)
    t.launcher = [program(t, "confine"), "docker-ptrace", *as_user(t, f"--bounding-set=-all,{DOCKER}"), *NO_NEW_PRIVS]
    result = woken(t, root, steps)
    if "tier fork" not in result.err:
        raise Failure(f"torpor does not say in which tier it works: {result}")


@case("docker-root", needs=["setpriv"])
def docker_root(t):
    """Root in such a container that was also given the two capabilities (--cap-add)."""
    few = ["setpriv", f"--bounding-set=-all,{DOCKER},+checkpoint_restore,+sys_ptrace"]
    root, steps = hold(t, *few, user=False)
    t.launcher = [program(t, "confine"), "docker-ptrace", *few]
    woken(t, root, steps, "--tier", "root")


@case("docker-default", needs=["setpriv"])
def docker_default(t):
    """The profile as it is forbids pidfd_getfd, and so the look at an open file: that is said, with what would help."""
    t.setup.give_up_capability()
    root, steps = hold(t)
    t.launcher = [program(t, "confine"), "docker", *as_user(t), *NO_NEW_PRIVS]
    result = t.torpor("dump", root, "-o", t.image(), expect=3)
    if "pidfd_getfd" not in result.err or "SYS_PTRACE" not in result.err:
        raise Failure(f"the dump should say that pidfd_getfd is forbidden, and what would help: {result}")
    t.untraced(root)
    steps.advance(3)
    finish(t, root, steps)


@case("no-new-privs", needs=["setpriv"])
def no_new_privs(t):
    """A parent with no_new_privs: the file capability is not granted; another tier works, and torpor says which."""
    root, steps = hold(t)
    t.launcher = [*as_user(t), *NO_NEW_PRIVS]
    result = woken(t, root, steps)
    if "tier fork" not in result.err and "tier userns" not in result.err:
        raise Failure(f"torpor does not say in which tier it works: {result}")


@case("low-limits", needs=["prlimit", "setpriv"])
def low_limits(t):
    """A restore raises the limits that it needs more of, for itself only; where it may not, it says which, and how far."""
    root, steps = hold(t)
    limits = harness.read(f"/proc/{root}/limits")
    t.dump(root)
    for limit, identity in (("nofile=24", "E-LIMIT-FILES"), ("stack=131072", "E-LIMIT-STACK"), ("as=12000000", "E-LIMIT-MEMORY")):
        t.launcher = [*as_user(t), "prlimit", f"--{limit}"]
        result = t.torpor("restore", t.image(), "--detach", expect=5)
        if identity not in result.err or stat_of(root):
            raise Failure(f"a hard limit of {limit}: {result}")
        t.launcher = [*as_user(t), "prlimit", f"--{limit}:"]
        t.torpor("restore", t.image(), "--detach")
        steps.advance(3)
        if harness.read(f"/proc/{root}/limits") != limits:
            raise Failure(f"the limits of the program: {limits}, now {harness.read(f'/proc/{root}/limits')}")
        t.dump(root)
    t.launcher = []
    t.restore(root)
    finish(t, root, steps)


@case("userns-forbidden", needs=["unshare", "setpriv"])
def userns_forbidden(t):
    """Where namespaces are forbidden, that is said with its cause, and auto takes the next tier; nothing is left."""
    t.setup.give_up_capability()
    for launcher, cause in (([program(t, "confine"), "namespaces", *as_user(t)], os.strerror(1)),
                            (as_user(t) + namespace_without_namespaces(t), "/proc/sys/user/max_user_namespaces is 0")):
        t.fresh_work()
        root, steps = hold(t)
        t.dump(root)
        t.launcher = launcher
        for arguments in (["run", "true"], ["restore", t.image(), "--tier", "userns"]):
            result = t.torpor(*arguments, expect=3)
            if cause not in result.err or "E-USERNS-FORBIDDEN" not in result.err:
                raise Failure(f"not told why: {result}")
        t.statuses.clear()
        result = t.torpor("restore", t.image(), "--detach")
        if "tier fork" not in result.err or cause not in result.err:
            raise Failure(f"not told which tier, and why: {result}")
        steps.advance(3)
        finish(t, root, steps)
        t.launcher = []


@case("check-leaves-nothing")
def check_leaves_nothing(t):
    """Trying everything leaves no process and no file, and changes no PID."""
    before = set(os.listdir("/proc/self/fd")), set(os.listdir(t.work)), harness.read("/proc/self/cgroup")
    pid, _ = t.torpor_start(["check"])
    t.wait_exit(pid, 60)
    left = [p for p in harness.tree_of(os.getpid())[1:] if state_of(p) not in ("", "Z")]
    if left or (set(os.listdir("/proc/self/fd")), set(os.listdir(t.work)), harness.read("/proc/self/cgroup")) != before:
        raise Failure(f"torpor check left {left}")


@case("check-process")
def check_process(t):
    """What one process would meet: in words, and as JSON with an estimate."""
    t.setup.give_up_capability()
    steps = Steps(t, ["step"])
    root = t.start([PYTHON, "-B", t.target("plain.py"), "16"])
    steps.advance(3, seconds=30)
    answer = json.loads(t.torpor("check", root, "--json").out)
    if not answer["can_be_saved"] or answer["obstacles"] or not 16 << 20 <= answer["bytes"] <= 64 << 20:
        raise Failure(f"check says {answer}")
    if answer["frozen_ns"] > 2e9:
        raise Failure(f"it stood still for {answer['frozen_ns'] / 1e6} ms")
    steps.advance(3)
    finish(t, root, steps)


if __name__ == "__main__":
    sys.exit(run.main(__doc__, needs_root=True))
