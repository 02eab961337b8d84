#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line uses the library by its header only, and the library keeps its manners.

src/cmd includes torpor/torpor.h and its own headers, and nothing else of src/. Below it nothing prints or exits, but for
the one message of a process that cannot give up its privileges; and no state is kept but what is listed here.

    floors.py ARCHIVE: the library with all its floors
"""

import glob
import os
import re
import subprocess
import sys

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
# Variables that are written, and why that harms nobody.
STATE = {
    "begun": "of the process, like its capabilities: written in processes of torpor's own only (util/privilege.c)",
    "grantable": "likewise",
    "of_task": "in a process that becomes a task of the tree (core/build.c)",
    "keys": "room for what is typed into a terminal, in a process that ends then (kinds/pty/queue.c)",
}
problems = []


def sources(*folders):
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(TOP, "src", folder, "**", "*.[ch]"), recursive=True)):
            with open(path, encoding="utf-8") as f:
                yield os.path.relpath(path, TOP), f.read()


def check_includes():
    for path, text in sources("cmd"):
        for name in re.findall(r'^#include "([^"]+)"', text, re.M):
            if not name.startswith("cmd/") and name != "torpor/torpor.h":
                problems.append(f"{path} includes {name}: what it needs of the library belongs into torpor/torpor.h")
    for path, text in sources(*(f for f in os.listdir(os.path.join(TOP, "src")) if f not in ("cmd", "runner"))):
        if '#include "cmd/' in text:
            problems.append(f"{path} includes something of the command line")
        if '#include "api/' in text and not path.startswith("src/api/"):
            problems.append(f"{path} includes something of the floor above it")


def check_manners():
    for path, text in sources(*(f for f in os.listdir(os.path.join(TOP, "src")) if f not in ("cmd", "runner"))):
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        for m in re.finditer(r"(?<![\w.>])(v?printf|puts|putchar|perror|exit|abort|v?fprintf)\s*\((.*)", code):
            if "format(" not in code[max(0, m.start() - 7):m.start()] and not m[2].startswith("f,"):
                problems.append(f"{path}: {m[0].strip()}")


def check_state(archive):
    """What is in .data and .bss; constants with addresses in them are in .data.rel.ro."""
    out = subprocess.run(["objdump", "-t", archive], check=True, capture_output=True, text=True).stdout
    for m in re.finditer(r"^[0-9a-f]+ .{7} (\.data|\.bss)(?:\.\S*)?\s+([0-9a-f]+)\s+(?:\.hidden )?(\S+)$", out, re.M):
        section, names = m[1], m[3].split(".")  # of a function's: gcc says "keys.0", clang "pty_put_input.keys"
        whole = re.search(r"(\.data\S*|\.bss\S*)\s", m[0])[1]
        if int(m[2], 16) and not whole.startswith(".data.rel.ro") and not STATE.keys() & names:
            problems.append(f"{m[3]} in {section} is written by whoever uses the library")


def main():
    check_includes()
    check_manners()
    check_state(sys.argv[1])
    if problems:
        sys.exit("\n".join(problems))


main()
