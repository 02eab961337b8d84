# SPDX-License-Identifier: Apache-2.0
"""make -j2 with the compiler at work: the program that comes out must link, run and print the right sum."""

import subprocess

from harness import Failure, case, job, read

FILES, FUNCTIONS = 20, 60
MASK = (1 << 32) - 1


def value(file, function, x):
    """What function `function` of file `file` computes."""
    for k in range(8):
        x = (x * (file * 1000 + function + 3 + k) ^ (x >> (k + 1))) & MASK
    return x


def source(file):
    lines = ["#include <stdint.h>", "#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>"]
    for function in range(FUNCTIONS):
        lines.append(f"static uint32_t part{function}(uint32_t x)\n{{")
        for k in range(8):
            lines.append(f"\tx = x * {file * 1000 + function + 3 + k}u ^ (x >> {k + 1});")
        lines.append("\treturn x;\n}")
    lines.append(f"uint32_t file{file}(uint32_t x)\n{{")
    lines += [f"\tx += part{function}(x);" for function in range(FUNCTIONS)]
    lines.append("\treturn x;\n}")
    return "\n".join(lines) + "\n"


def expected():
    x = 1
    for file in range(FILES):
        for function in range(FUNCTIONS):
            x = (x + value(file, function, x)) & MASK
    return x


def prepare(t):
    names = [f"file{n}" for n in range(FILES)]
    for n, name in enumerate(names):
        t.write(name + ".c", source(n))
    calls = "\n".join(f"uint32_t {n}(uint32_t);" for n in names)
    body = "\n".join(f"\tx = {n}(x);" for n in names)
    t.write("main.c", f"#include <stdint.h>\n#include <stdio.h>\n{calls}\nint main(void)\n{{\n\tuint32_t x = 1;\n"
                      f"{body}\n\tprintf(\"%u\\n\", x);\n\treturn 0;\n}}\n")
    objects = " ".join(n + ".o" for n in ["main", *names])
    t.write("Makefile", f"program: {objects}\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n")


def verify(t, status):
    if status != 0:
        raise Failure(f"make ended with status {status}: {read(t.logs + '/stderr', '')[-300:]}")
    done = subprocess.run([t.path("program")], capture_output=True, text=True)
    if done.stdout.strip() != str(expected()):
        raise Failure(f"the program printed {done.stdout!r}, not {expected()}")


@case("make", needs=["make", "gcc"], limit=240)
def make(t):
    job(t, ["make", "-s", "-j2", "program"], prepare, verify, still=True)
