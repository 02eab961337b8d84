#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images that somebody means ill with: checksums right, fields changed. Refused, or something is restored; never a crash.

    hostile.py [--torpor FILE] [--list] [NAME...]

tests/fuzz/hostile.c changes one to three fields of an image's metadata, TORPOR_TEST_HOSTILE=N times per program (20);
each result goes through verify, inspect, restore --explain and restore. With a torpor that was built with sanitizers,
these are heard as well.
"""

import os
import random
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from attacked import Rich  # noqa: E402
from common import PythonThreads, Steady, compile_steady, main, read_bytes  # noqa: E402
from harness import Failure, Skip, case, stat_of, tree_of  # noqa: E402

IMAGES = int(os.environ.get("TORPOR_TEST_HOSTILE", "20"))
SECONDS = 20


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


def hostile(t, start):
    driver = os.path.join(t.setup.build, "tests/fuzz/hostile")
    if not os.access(driver, os.X_OK):
        raise Skip(f"{driver} has not been built")
    program = start(t)
    root = program.root
    t.dump(root)
    first = random.randrange(1 << 30)
    outcomes, slowest = {}, (0, 0)
    for seed in range(first, first + IMAGES):
        path = t.image("hostile")
        done = subprocess.run([driver, str(seed), str(1 + seed % 3), t.image(), path], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"seed {seed}: {done.stderr}")
        t.setup.own(path)
        content = read_bytes(path)
        t.log(f"seed {seed}, the image of which is kept if anything goes wrong: {path}")
        for command in (["verify"], ["inspect"], ["inspect", "--json"], ["restore", "--explain"]):
            expect_proper(t, seed, t.torpor(*command, path, expect=None, seconds=SECONDS))
        result = t.torpor("restore", path, "--detach", expect=None, seconds=SECONDS)
        expect_proper(t, seed, result)
        slowest = max(slowest, (result.seconds, seed))
        if result.status:
            t.until(lambda: not stat_of(root) and not tree_of(os.getpid())[1:], 5,
                    f"seed {seed}: {result}; processes are left: {tree_of(os.getpid())[1:]}")
        end_all_below(t)
        if read_bytes(path) != content:
            raise Failure(f"seed {seed}: the image has changed")
        os.unlink(path)
        outcomes[result.status] = outcomes.get(result.status, 0) + 1
    text = ", ".join(f"{n} {'restored' if s == 0 else f'status {s}'}" for s, n in sorted(outcomes.items()))
    print(f"    {t.name}: {text}; the slowest restore took {slowest[0]:.1f} s (seed {slowest[1]})", flush=True)


for _name, _start in (("steady", lambda t: Steady(t, 2)), ("python", PythonThreads), ("rich", Rich)):
    case(f"hostile-{_name}", limit=60 + IMAGES * 10, start=_start)(hostile)


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
