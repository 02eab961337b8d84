#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""libtorpor in other programs: C, the examples, Python.

    run.py [--torpor FILE] [--list] [NAME...]

Set-up, user and reporting are those of tests/programs. The library and the programs lie beside the torpor that is given.
"""

import glob
import os
import shutil
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "programs"), HERE]
import run  # noqa: E402


def prepare(setup):
    """The user may not be able to read the build folder."""
    setup.library = os.path.join(setup.folder, "api")
    os.mkdir(setup.library)
    for path in [*glob.glob(os.path.join(setup.build, "src", "libtorpor.so*")),
                 *(os.path.join(setup.build, name) for name in ("tests/api/embed", "tests/api/embed_static", "examples/save_game", "examples/prewarm"))]:
        if not path.endswith(".p"):
            shutil.copy(path, setup.library, follow_symlinks=False)


if __name__ == "__main__":
    run.load_tests(HERE)
    sys.exit(run.main(__doc__, prepare))
