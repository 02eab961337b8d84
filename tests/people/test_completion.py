# SPDX-License-Identifier: Apache-2.0
"""Completion in the shells: bash's is tried; all of them know the commands and options that --help shows."""

import os
import re
import subprocess
import sys

from harness import Failure, case, read

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FOLDER = os.path.join(TOP, "completions")
TRY = """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }
_torpor
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(t, *words):
    done = subprocess.run(["bash", "-c", TRY, "bash", os.path.join(FOLDER, "torpor.bash"), *words], capture_output=True, text=True,
                          cwd=t.work, env={**t.setup.environment(), "PATH": os.path.dirname(t.setup.binary) + ":/usr/bin:/bin"})
    if done.stderr:
        raise Failure(f"bash says {done.stderr!r} to {words}")
    return set(done.stdout.split())


def expect(t, words, *expected):
    found = complete(t, *words)
    if not set(expected) <= found:
        raise Failure(f"{' '.join(words)!r} is completed with {sorted(found)}, not with {expected}")
    return found


@case("completion-bash", needs=["bash"])
def bash(t):
    found = re.findall(r"^  torpor (\w+)", t.torpor("--help").out, re.M)
    if expect(t, ["torpor", ""], *found) != set(found):
        raise Failure("other commands than those of --help are offered")
    if complete(t, "torpor", "insp") != {"inspect"}:
        raise Failure("insp is not completed to inspect")
    for name in found:
        options = set(re.findall(r"(--[a-z][a-z-]+)(?=[ =,\n]|$)", t.torpor(name, "--help").out.split("\n\n", 1)[1]))
        expect(t, ["torpor", name, "--"], "--quiet", "--progress", *options)
    t.write("nap.torpor", "")
    expect(t, ["torpor", "restore", "n"], "nap.torpor")
    expect(t, ["torpor", "--quiet", "restore", "--tier", "f"], "fork")
    expect(t, ["torpor", "dump", "--progress", "=", "j"], "json")
    if complete(t, "torpor", "help", "E-FD-IO") != {"E-FD-IO-URING"}:
        raise Failure("ids are not completed")
    root = t.start(["sleep", "100"])
    expect(t, ["torpor", "dump", ""], str(root) if os.geteuid() else "1")


@case("completion-same")
def same(t):
    """What is installed is what the generator makes of this torpor."""
    done = subprocess.run([sys.executable, "-B", os.path.join(FOLDER, "generate.py"), t.setup.binary, "--check"],
                          capture_output=True, text=True)
    if done.returncode:
        raise Failure(done.stderr)
    for name in re.findall(r"^  torpor (\w+)", t.torpor("--help").out, re.M):
        for option in re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", t.torpor(name, "--help").out, re.M):
            for shell in "torpor.bash", "_torpor", "torpor.fish":
                text = read(os.path.join(FOLDER, shell))
                if not re.search(rf"\b{option[2:]}\b", text) or not re.search(rf"\b{name}\b", text):
                    raise Failure(f"{shell} does not know {option} of {name}")
