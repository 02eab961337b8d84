# SPDX-License-Identifier: Apache-2.0
"""The programs of examples/."""

import os
import re

from harness import Failure, case, read


def example(t, name, *arguments):
    return t.start([os.path.join(t.setup.library, name), *arguments], environment={"LD_LIBRARY_PATH": t.setup.library})


def said(t):
    return read(os.path.join(t.logs, "stdout"), "")


def must_end_well(t, pid):
    status = t.wait_exit(pid)
    if status:
        raise Failure(f"status {status}: {said(t)!r} {read(os.path.join(t.logs, 'stderr'), '')!r}")


@case("save-game")
def save_game(t):
    """It saves itself three times and ends; the last state is restored twice, and knows each time."""
    path = t.image()
    pid = example(t, "save_game", path, "10")
    must_end_well(t, pid)
    first = said(t)
    if first.count("saved\n") != 3 or "restored," in first or not re.search(r"the end: score (\d+), restored 0 times", first):
        raise Failure(f"it said {first!r}")
    score = re.search(r"the end: score (\d+)", first)[1]
    for _ in range(2):
        before = len(said(t))
        t.torpor("restore", path)
        later = said(t)[before:]
        if not later.startswith("restored, for the 1. time: round 9, ") or "round 10: " not in later \
                or f"the end: score {score}, restored 1 times\n" not in later:
            raise Failure(f"the restored one said {later!r}")


@case("save-game-chain")
def save_game_chain(t):
    """What was restored saves itself as well."""
    path = t.image()
    pid = example(t, "save_game", path, "30")
    t.until(lambda: said(t).count("saved\n") == 1, 20, "it has saved itself")
    t.end(pid)
    for life in (1, 2, 3):
        before = len(said(t))
        torpor, call = t.torpor_start(["restore", path])
        t.until(lambda: said(t)[before:].count("saved\n") >= 1, 20, "the restored one has saved itself")
        if f"restored, for the {life}. time" not in said(t)[before:]:
            raise Failure(f"life {life}: {said(t)[before:]!r}, {t.errors(call)!r}")
        t.end(torpor)
        t.end(pid)


@case("save-game-refused")
def save_game_refused(t):
    """A file that cannot be written: it is told, and the program goes on to say so."""
    pid = example(t, "save_game", "/proc/no-such-folder/file", "5")
    if t.wait_exit(pid) != 1 or "cannot save: " not in read(os.path.join(t.logs, "stderr"), ""):
        raise Failure(f"it said {said(t)!r}")


@case("prewarm")
def prewarm(t):
    pid = example(t, "prewarm", t.image(), "5")
    must_end_well(t, pid)
    text = said(t)
    answers = re.findall(r"^copy (\d), process (\d+): (\d+) is (\d+) \(request 1 of this copy\)$", text, re.M)
    if [a[0] for a in answers] != list("01234") or len({a[1] for a in answers}) != 5 or len({a[3] for a in answers}) != 5:
        raise Failure(f"it said {text!r}")
    table = [1]
    for _ in range(1004):
        table.append((table[-1] * 1664525 + 1013904223) % 2 ** 32)
    for number, _, request, answer in answers:
        if int(request) != 1000 + int(number) or int(answer) != table[int(request)]:
            raise Failure(f"{request} is {answer}")
