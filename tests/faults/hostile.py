#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images that somebody means ill with: checksums right, fields changed. Refused, or something is restored; never a crash.

    hostile.py [--torpor FILE] [--list] [NAME...]

tests/fuzz/hostile.c changes one to three fields of an image's metadata, TORPOR_TEST_HOSTILE=N times per program (20),
or with TORPOR_TEST_HOSTILE=each every field in turn, the I-th of N such runs (each:I:N) every N-th of them; each result goes through verify, inspect, restore --explain and restore. With a torpor that was built with sanitizers,
these are heard as well. The case xstate changes the extended state of threads (PTRACE_SETREGSET, XRSTOR).
"""

import json
import os
import random
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attacked import Rich  # noqa: E402
from common import Nth, PythonThreads, Steady, compile_steady, kill_tree, main, read_bytes  # noqa: E402
from harness import Failure, Skip, case, stat_of, state_of, tree_of  # noqa: E402

IMAGES = os.environ.get("TORPOR_TEST_HOSTILE", "20")
MANY = 100000  # more than any image has
SECONDS = 20
NT_X86_XSTATE = 0x202
PTRACE_SETREGSET = 0x4205


def end_all_below(t):
    """Whatever was restored, from a changed image, ends."""
    t.end_all()
    t.statuses.clear()


def expect_proper(t, seed, result):
    text = result.out + result.err
    if not 0 <= result.status <= 5 or "AddressSanitizer" in text or "runtime error" in text:
        raise Failure(f"seed {seed}: torpor {result.argv[0]}: {result}")
    if result.status and "torpor: " not in result.err:
        raise Failure(f"seed {seed}: torpor {result.argv[0]} does not say why: {result}")


def changes():
    """What hostile.c is told, for one image after the other: a seed, and how many fields it changes, or which."""
    first = random.randrange(1 << 30)
    if not IMAGES.startswith("each"):
        yield from ((seed, str(1 + seed % 3)) for seed in range(first, first + int(IMAGES)))
        return
    part, parts = map(int, IMAGES.split(":")[1:] or (0, 1))
    yield from ((first + field, f"@{field}") for field in range(part, MANY, parts))


def try_commands(t, path, seed, root):
    """verify, inspect and restore; the result of the last."""
    for command in (["verify"], ["inspect"], ["inspect", "--json"], ["restore", "--explain"]):
        expect_proper(t, seed, t.torpor(*command, path, expect=None, seconds=SECONDS))
    result = t.torpor("restore", path, "--detach", expect=None, seconds=SECONDS)
    expect_proper(t, seed, result)
    if result.status:
        t.until(lambda: not stat_of(root) and not tree_of(os.getpid())[1:], 5,
                f"seed {seed}: {result}; processes are left: {tree_of(os.getpid())[1:]}")
    end_all_below(t)
    return result


def hostile(t, start):
    driver = os.path.join(t.setup.build, "tests/fuzz/hostile")
    if not os.access(driver, os.X_OK):
        raise Skip(f"{driver} has not been built")
    program = start(t)
    t.dump(program.root)
    outcomes, slowest, path = {}, (0, 0), t.image("hostile")
    for seed, what in changes():
        done = subprocess.run([driver, str(seed), what, t.image(), path], capture_output=True, text=True)
        if done.returncode == 2 and what.startswith("@"):
            break
        if done.returncode:
            raise Failure(f"seed {seed}, {what}: {done.stderr}")
        t.setup.own(path)
        content = read_bytes(path)
        t.log(f"seed {seed}, {what}: the image is kept if anything goes wrong: {path}")
        result = try_commands(t, path, seed, program.root)
        if read_bytes(path) != content:
            raise Failure(f"seed {seed}, {what}: the image has changed")
        os.unlink(path)
        slowest = max(slowest, (result.seconds, seed))
        outcomes[result.status] = outcomes.get(result.status, 0) + 1
    text = ", ".join(f"{n} {'restored' if s == 0 else f'status {s}'}" for s, n in sorted(outcomes.items()))
    print(f"    {t.name}: {text}; the slowest restore took {slowest[0]:.1f} s (seed {slowest[1]})", flush=True)


# Those with which threads load their extended state by themselves (arch/x86_64/xstate.h). With MPX as well, but an emulator may
# tell that it is in use.
KNOWN_XFEATURES = 0x602e7
# Bits inverted in an area of XSAVE: a component that no processor has, XCOMP_BV, a reserved byte, a reserved bit of MXCSR.
REFUSED_XSTATE = ("519:0x40", "527:0x80", "528:1", "575:1", "27:0x80")


def changed_xstate(t, bits):
    path = t.image("changed")
    driver = os.path.join(t.setup.build, "tests/fuzz/hostile")
    subprocess.run([driver, "xstate", bits, t.image(), path], check=True)
    t.setup.own(path)
    return path


def restore_without_setregset(t, path):
    """torpor restore, with every PTRACE_SETREGSET of an extended state failing. (result, those that there were)

    The sanitizer for leaks reads such a state as well (PTRACE_GETREGSET), when torpor ends."""
    nth = Nth(t, "fail")
    nth.launch(f"ptrace:{NT_X86_XSTATE}")
    result = t.torpor("restore", path, "--detach", expect=None)
    calls = (nth.launched() or "").splitlines()
    return result, [call for call in calls if call.startswith(f"ptrace({PTRACE_SETREGSET:#x},")]


def expect_no_cpu(t, program, what, result):
    if result.status != 1 or "[E-CPU]" not in result.err:
        raise Failure(f"{what}: {result}")
    t.until(lambda: not stat_of(program.root) and not tree_of(os.getpid())[1:], 5, f"{what}: {result}; processes are left")


@case("xstate", limit=120)
def xstate(t):
    """Threads load their extended state by themselves, unless it is one that only the kernel may judge."""
    program = Steady(t, 2)
    stopped = t.stop_tree(program.root)
    t.dump(program.root)
    xfeatures = json.loads(t.torpor("inspect", t.image(), "--json").out)["image"]["machine"]["xfeatures"]
    result, calls = restore_without_setregset(t, t.image())
    if int(xfeatures) & ~KNOWN_XFEATURES:
        raise Skip(f"this processor has other registers: {xfeatures:#x}")
    if result.status or calls:
        raise Failure(f"{calls}: {result}")
    t.continue_tasks(stopped)
    program.check()
    kill_tree(t, program.root)
    for bits in REFUSED_XSTATE:
        result = t.torpor("restore", changed_xstate(t, bits), "--detach", expect=None)
        expect_no_cpu(t, program, bits, result)
    # MXCSR, which counts or does not when SSE is not in use: so the kernel loads it, and accepts it. (It costs the program its
    # vector registers, so it must stand.)
    path = changed_xstate(t, "512:2,25:0x80")
    result, calls = restore_without_setregset(t, path)
    if not calls:
        raise Failure(f"it was not loaded by the kernel: {result}")
    expect_no_cpu(t, program, calls, result)
    t.torpor("restore", path, "--detach")
    t.until(lambda: state_of(program.root) == "T", 5, "it is not restored as the stopped program that it was")


for _name, _start in (("steady", lambda t: Steady(t, 2)), ("python", PythonThreads), ("rich", Rich)):
    case(f"hostile-{_name}", limit=60 + int(IMAGES) * 10 if IMAGES.isdigit() else 7200, start=_start)(hostile)


if __name__ == "__main__":
    sys.exit(main(__doc__, lambda setup: compile_steady(setup, "nth")))
