# SPDX-License-Identifier: Apache-2.0
"""The bindings for Python: see python_user.py."""

import os
import re
import shutil
import subprocess
import sys

from harness import PYTHON, Failure, case, read

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.join(HERE, "..", "..")
PACKAGE = os.path.join(TOP, "bindings/python")


def begin(t, name):
    """The user may not be able to read the repository."""
    folder = os.path.join(t.base, "bindings")
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(os.path.join(HERE, "python_user.py"), folder)
    return t.start([PYTHON, "-B", os.path.join(folder, "python_user.py"), name, t.work],
                   environment={"TORPOR_LIBRARY": os.path.join(t.setup.library, "libtorpor.so.0")})


def must_succeed(t, name):
    status = t.wait_exit(begin(t, name))
    if status:
        raise Failure(f"status {status}: {read(os.path.join(t.logs, 'stderr'), '')[-1500:]}")


for test in ("cycle", "errors", "look", "parents"):
    case(f"python-{test}")(lambda t, test=test: must_succeed(t, test))


@case("python-myself")
def myself(t):
    pid = begin(t, "myself")
    if t.wait_exit(pid) or read(f"{t.work}/original") != str(pid) or os.path.exists(f"{t.work}/restored"):
        raise Failure(f"the original: {read(os.path.join(t.logs, 'stderr'), '')[-1500:]}")
    t.torpor("restore", os.path.join(t.work, "python.torpor"), expect=11)
    if read(f"{t.work}/restored", "") != str(pid):
        raise Failure("the restored one does not know that it is")


@case("python-layout", needs=["cc"])
def layout(t):
    """The structs of the bindings lie as those of the header, and the functions are there with as many arguments."""
    sys.path.insert(0, PACKAGE)
    os.environ["TORPOR_LIBRARY"] = os.path.join(t.setup.build, "src", "libtorpor.so.0")
    from torpor import _library as lib
    lines = [f'printf("{s._c_name_} {n} %zu %zu\\n", offsetof(struct {s._c_name_}, {n}), sizeof(((struct {s._c_name_} *)0)->{n}));'
             for s in lib.STRUCTS for n, *_ in s._fields_]
    source = os.path.join(t.work, "layout.c")
    with open(source, "w") as f:
        f.write("#include <stdio.h>\n#include <torpor/torpor.h>\nint main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["cc", "-I", os.path.join(TOP, "include"), source, "-o", source[:-2]], check=True)
    real = subprocess.run([source[:-2]], check=True, capture_output=True, text=True).stdout.splitlines()
    ours = [f"{s._c_name_} {n} {getattr(s, n).offset} {getattr(s, n).size}" for s in lib.STRUCTS for n, *_ in s._fields_]
    wrong = [f"{a}, not {b}" for a, b in zip(real, ours) if a != b]
    if wrong or not ours or len(real) != len(ours):
        raise Failure("; ".join(wrong[:5]) or "no fields")
    header = re.sub(r"/\*.*?\*/", "", read(os.path.join(TOP, "include/torpor/torpor.h")), flags=re.S)
    for name, (_, arguments) in lib.FUNCTIONS.items():
        declared = header[header.index(f"{name}(") + len(name) + 1:]
        depth, n = 1, 1
        for c in declared:
            depth += {"(": 1, ")": -1}.get(c, 0)
            n += c == "," and depth == 1
            if not depth:
                break
        if (0 if declared.startswith("void)") else n) != len(arguments):
            raise Failure(f"{name} takes {n} arguments, not {len(arguments)}")


@case("python-types", needs=["mypy"])
def types(t):
    said = subprocess.run(["mypy", "--strict", "--cache-dir", t.work, os.path.join(PACKAGE, "torpor")], capture_output=True, text=True)
    if said.returncode:
        raise Failure(said.stdout[-1500:])
