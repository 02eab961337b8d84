#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of real programs: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

As root it makes an ordinary user `torpor-test`, gives a copy of the binary the file capability
CAP_CHECKPOINT_RESTORE and runs everything as that user. Otherwise it uses the binary as it is.
TORPOR_TEST_ROUNDS=N makes N cycles per program (10), TORPOR_TEST_SLOWER=F stretches all time limits,
TORPOR_TEST_JOBS=N runs N cases at once (1).
TORPOR_TEST_AGAIN=1 runs what has failed once more, alone: on a busy machine a test can be too late. What passes then has
passed, but is named in the end, and what it said at first stands above.
Where it cannot make namespaces, a case may fail with more than one job (-jN) because another one got a PID it needs.
"""

import argparse
import fnmatch
import glob
import importlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

USER = "torpor-test"
AGAIN = os.environ.get("TORPOR_TEST_AGAIN", "0") != "0"


def load_cases():
    for path in sorted(glob.glob(os.path.join(harness.HERE, "*.py"))):
        name = os.path.basename(path)[:-3]
        if name in ("run", "harness", "selfcheck", "clients"):
            continue
        importlib.import_module(name)  # once, also where another one uses it
    return harness.CASES


def load_tests(folder):
    """The cases in test_*.py of another runner's folder."""
    for path in sorted(glob.glob(os.path.join(folder, "test_*.py"))):
        importlib.import_module(os.path.basename(path)[:-3])


def make_account():
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "-r", "-m", "-s", "/bin/sh", USER], check=True)
        return pwd.getpwnam(USER)


def make_setup(binary):
    folder = tempfile.mkdtemp(prefix="torpor-test.", dir="/var/tmp")
    os.chmod(folder, 0o755)
    if os.geteuid() != 0:
        return harness.Setup(folder, binary, None)
    account = make_account()
    copies = os.path.join(folder, "bin")
    os.mkdir(copies)
    copy = shutil.copy(binary, os.path.join(copies, "torpor"))
    os.chmod(copy, 0o755)
    setcap = shutil.which("setcap", path=harness.ENVIRONMENT_PATH) or "setcap"
    subprocess.run([setcap, "cap_checkpoint_restore=ep", copy], check=True)
    targets = shutil.copytree(harness.TARGETS, os.path.join(folder, "targets"))
    harness.TARGETS = targets  # the user may not be able to read the repository
    return harness.Setup(folder, copy, account)


class Running:
    """A case in a process of its own."""

    def __init__(self, setup, chosen, number):
        self.case, self.number, self.began = chosen, number, time.monotonic()
        self.folder = os.path.join(setup.folder, chosen.name)
        self.result_path = os.path.join(setup.folder, chosen.name + ".result")
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            try:
                if not chosen.shares_machine:
                    harness.own_machine(setup.account)
                result = harness.run_case(setup, chosen)
            except BaseException as e:
                result = ("failed", f"{type(e).__name__}: {e}")
            with open(self.result_path, "w") as f:
                json.dump(result, f)
            os._exit(0)

    def poll(self):
        """(result, text) once it has ended."""
        pid, _ = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            text = harness.read(self.result_path)
            return json.loads(text) if text else ("failed", "the process of the case ended without a result")
        if time.monotonic() - self.began > self.case.limit:
            self.kill()
            return ("failed", f"took longer than {self.case.limit:g} s")
        return None

    def kill(self):
        """End the case and all below it. What it leaves becomes ours, we are a subreaper as well."""
        below = harness.tree_of(self.pid)
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in below:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def report(running, outcome):
    result, text = outcome
    took = f"({time.monotonic() - running.began:.1f} s)"
    text = " / ".join(text.splitlines())[:500]
    name = running.case.name
    if result == "ok":
        print(f"ok {running.number} {name} {took}")
    elif result == "skip":
        print(f"skip {running.number} {name}: {text}")
    else:
        print(f"not ok {running.number} {name} {took}: {text}")
        print(f"    logs: {running.folder}/logs")
        for line in harness.read(f"{running.folder}/logs/journal", "").splitlines()[-12:]:
            print("    " + line[:400])
    sys.stdout.flush()
    if result != "failed":
        shutil.rmtree(running.folder, ignore_errors=True)


def run(setup, chosen, jobs):
    """The cases by their outcome."""
    outcomes = {"ok": [], "failed": [], "skip": []}
    waiting = list(enumerate(chosen, 1))
    active = []
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                number, one = waiting.pop(0)
                active.append(Running(setup, one, number))
            for running in list(active):
                outcome = running.poll()
                if outcome:
                    active.remove(running)
                    report(running, outcome)
                    outcomes[outcome[0]].append(running.case)
            time.sleep(0.02)
    finally:
        for running in active:
            running.kill()
    return outcomes


def run_again(setup, outcomes):
    """What has failed, once more, each alone. What passes then has passed: the second time."""
    failed = outcomes["failed"]
    for one in failed:
        os.rename(os.path.join(setup.folder, one.name), os.path.join(setup.folder, one.name + ".first"))
    print(f"once more: {', '.join(one.name for one in failed)}")
    second = run(setup, failed, 1)
    return {"ok": outcomes["ok"] + second["ok"], "failed": second["failed"], "skip": outcomes["skip"] + second["skip"],
            "second": second["ok"]}


def close(setup, outcomes):
    """Clean up, say how it went, and return the exit status: the end of every runner."""
    if AGAIN and outcomes["failed"]:
        outcomes = run_again(setup, outcomes)
    failed, second = len(outcomes["failed"]), outcomes.get("second", [])
    if failed or second:
        print(f"logs are kept in {setup.folder}")
    else:
        shutil.rmtree(setup.folder, ignore_errors=True)
    if second:
        print(f"passed only the second time: {' '.join(one.name for one in second)}")
    skipped = f", {len(outcomes['skip'])} skipped" if outcomes["skip"] else ""
    print(f"{len(outcomes['ok'])} passed, {failed} failed{skipped}")
    return 1 if failed else 0


def parse(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.path.join(harness.HERE, "..", "..", "build", "torpor")
    parser.add_argument("--torpor", default=os.path.normpath(default))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dump-without-capability", action="store_true", help="only restore has the capability")
    parser.add_argument("--tier", help="restore in this tier")
    parser.add_argument("-j", type=int, default=harness.JOBS, dest="jobs")
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


def choose(names):
    unknown = [n for n in names if not any(fnmatch.fnmatch(c.name, n) for c in harness.CASES)]
    if unknown:
        sys.exit("no such case: " + ", ".join(unknown))
    return [c for c in harness.CASES if not names or any(fnmatch.fnmatch(c.name, n) for n in names)]


def choose_privilege(setup, options):
    if options.dump_without_capability:
        capable = setup.binary
        setup.give_up_capability()
        setup.binary = capable
    if options.tier:
        setup.work_in(options.tier)


def main(description, prepare=None, needs_root=False):
    """What every runner does with the cases that were declared. `prepare` is called with the setup before they run."""
    options = parse(description)
    cases = choose(options.names)
    if options.list:
        print("\n".join(c.name for c in cases))
        return 0
    if needs_root and os.geteuid() != 0:
        print("these tests need root\n0 passed, 0 failed")
        return 0
    if not os.access(options.torpor, os.X_OK):
        sys.exit(f"{options.torpor} is not there; build it first")
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell has what it runs in the background ignore these, and so would all the programs of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    setup = make_setup(os.path.abspath(options.torpor))
    setup.build = os.path.dirname(os.path.abspath(options.torpor))  # where other things that were built lie
    choose_privilege(setup, options)
    if prepare:
        prepare(setup)
    return close(setup, run(setup, cases, options.jobs))


if __name__ == "__main__":
    load_cases()
    sys.exit(main(__doc__))
