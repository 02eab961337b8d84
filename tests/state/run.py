#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of what is neither a file nor a socket: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

Each program of this folder sets the state of tasks, threads and memory up and verifies it from inside (see
tests/kinds/common.h). How it is compiled, saved and restored: tests/programs/selfcheck.py.
"""

import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import selfcheck  # noqa: E402

PROGRAMS = """registers threads signals task""".split()
TICKING = """timers""".split()  # /proc shows other pending signals from one moment to the next


def declare():
    for program in PROGRAMS:
        selfcheck.declare(program)
    for program in TICKING:
        selfcheck.declare(program, [way for way in selfcheck.WAYS if way is not selfcheck.compared])


if __name__ == "__main__":
    declare()
    sys.exit(selfcheck.main(HERE, __doc__))
