#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Write the list in doc/limits.md from ids.def, to be run when that changes. With --check: exit 1 when it is out of date,
and write nothing."""

import glob
import os
import re
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PAGE = os.path.join(TOP, "doc", "limits.md")
MARK = "<!-- From here on, doc/limits.py writes what ids.def says. -->\n"
# Every first word of an id has its place.
CHAPTERS = {
    "Processes and threads": "TASK TREE TIMER",
    "File descriptors": "FD LOCK",
    "Memory": "MAP",
    "System V and POSIX IPC": "SYSV SEM MSG MQUEUE",
    "At the restore": "CPU KERNEL FILE FOLDER PID RESTORE LIMIT INET INTERFACE INOTIFY NETLINK TCP UNIX",
    "The image": "IMAGE",
    "torpor itself": "DUMP NAME RUN USERNS",
}
WIDTH = 126


def entries():
    """(id, what, why, what helps), as the compiler joins them."""
    path, = glob.glob(os.path.join(TOP, "src", "**", "ids.def"), recursive=True)
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for arguments in re.findall(r'^ID\((.*?")\)$', text, re.M | re.S):
        parts = re.split(r'"\s*,\s*"', re.sub(r'"\n\s*"', "", arguments).strip('"'))
        if len(parts) != 4:
            sys.exit(f"{path}: not understood: {arguments}")
        yield [part.replace('\\"', '"') for part in parts]


def wrap(text):
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > WIDTH:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def plain(text):
    """No word of it means anything to Markdown."""
    return re.sub(r"([*_<>\[\]`|])", r"\\\1", text)


def chapters():
    left = list(entries())
    for title, words in CHAPTERS.items():
        yield f"\n## {title}\n"
        for entry in [e for e in left if e[0].split("-")[1] in words.split()]:
            left.remove(entry)
            name, what, why, helps = entry
            yield "\n" + wrap(f"**{name}** {plain(what)} {plain(why)} *What helps:* {plain(helps)}") + "\n"
    if left:
        sys.exit(f"in no chapter of doc/limits.py: {[e[0] for e in left]}")


def main():
    with open(PAGE, encoding="utf-8") as f:
        old = f.read()
    new = old[:old.index(MARK)] + MARK + "".join(chapters())
    if sys.argv[1:] == ["--check"]:
        if new != old:
            sys.exit("doc/limits.md is out of date: run doc/limits.py")
        return
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(new)


main()
