#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`meson install` with DESTDIR puts exactly those files in place that installed.txt lists, and what is built does not depend on
where it is built.

    install.py BUILD-FOLDER [--write]

--write: write the list, instead of comparing. scripts/package builds twice and compares every byte.
"""

import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIST = os.path.join(HERE, "installed.txt")
PREFIX = "usr/local/"


def environment(folder):
    return {**{k: v for k, v in os.environ.items() if not k.startswith("MESON")}, "DESTDIR": folder}


def installed(build, folder):
    """Relative to the prefix; the folder of libraries has different names in different distributions."""
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet"], env=environment(folder), check=True)
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(parent, name), folder)
            if not path.startswith(PREFIX):
                sys.exit(f"installed outside the prefix: {path}")
            path = re.sub(r"^lib(64|/[a-z0-9_]+-linux-gnu)?/", "LIB/", path[len(PREFIX):])
            # One page for each function: tests/api compares them with the header.
            yield re.sub(r"man3/torpor_\w+\.3$", "man3/torpor_*.3", path), os.path.join(parent, name)


def check_paths(build, files, sanitized):
    """No file that is installed knows the folder that it was built in."""
    top = os.path.realpath(os.path.join(HERE, "..", "..")).encode()
    for name, path in files.items():
        with open(path, "rb") as f:
            content = f.read()
        if not sanitized and (top in content or os.path.realpath(build).encode() in content):
            sys.exit(f"{name} holds the name of the folder that it was built in")


def main():
    build = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        files = dict(sorted(installed(build, folder)))
        options = subprocess.run(["meson", "introspect", build, "--buildoptions"], capture_output=True, text=True, check=True).stdout
        check_paths(build, files, '"name": "b_sanitize", "value": "none"' not in options)
    found = "".join(name + "\n" for name in files)
    if sys.argv[2:] == ["--write"]:
        with open(LIST, "w") as f:
            f.write(found)
        return
    with open(LIST) as f:
        wanted = f.read()
    if found != wanted:
        missing, added = set(wanted.splitlines()) - set(files), set(files) - set(wanted.splitlines())
        sys.exit(f"not installed: {sorted(missing)}; installed, and not in {LIST}: {sorted(added)}")
    print(f"{len(files)} files, as listed")


main()
