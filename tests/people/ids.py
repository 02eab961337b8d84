#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every id in a message has an explanation in src/api/ids.def, and every explanation belongs to an id that is used.
What ends a dump or a restore because of a state (ERR_STATE) has an id. With --missing: only print what lacks one."""

import glob
import os
import re
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TABLE = "src/api/ids.def"
# The obstacles that it counts have ids themselves.
WITHOUT = {"cannot save process %d (%s): %zu %s in the way; it runs on, untouched"}
ID_MAX = 31  # of struct err


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as f:
        return f.read()


def sources():
    for path in sorted(glob.glob(os.path.join(TOP, "src", "**", "*.[ch]"), recursive=True)):
        path = os.path.relpath(path, TOP)
        yield path, read(path)


def used():
    """id -> the first place where it is used."""
    found = {}
    for path, text in sources():
        for match in re.finditer(r'"(E-[A-Z0-9]+(?:-[A-Z0-9]+)*)"', text):
            found.setdefault(match[1], f"{path}:{text.count(chr(10), 0, match.start()) + 1}")
    return found


def nameless():
    """Places that set ERR_STATE without an id."""
    for path, text in sources():
        for match in re.finditer(r'err_set\(\s*e,\s*ERR_STATE,[^"]*"([^"]*)"', text):
            if match[1] not in WITHOUT:
                yield f"{path}:{text.count(chr(10), 0, match.start()) + 1}: use err_state() with an id: {match[1]!r}"


def main():
    explained = re.findall(r'^ID\("([^"]+)",', read(TABLE), re.M)
    places = used()
    problems = [f"{place}: {name} has no explanation in {TABLE}"
                for name, place in sorted(places.items()) if name not in explained]
    if sys.argv[1:] == ["--missing"]:
        print("\n".join(problems))
        return
    problems += [f"{TABLE}: {name} is used nowhere" for name in explained if name not in places]
    problems += [f"{TABLE}: {b} stands behind {a}" for a, b in zip(explained, explained[1:]) if a >= b]
    problems += [f"{TABLE}: {name} is longer than {ID_MAX}" for name in explained if len(name) > ID_MAX]
    problems += nameless()
    if len(explained) < 50 or len(places) < 50:
        problems.append("so few ids cannot be all")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(explained)} ids, all explained")


main()
