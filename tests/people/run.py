#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What torpor shows to people: messages, help, listings, core files, pages.

    run.py [--torpor FILE] [--list] [NAME...]

Set-up, user and reporting are those of tests/programs.
"""

import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "programs"), HERE]
import run  # noqa: E402


if __name__ == "__main__":
    run.load_tests(HERE)
    sys.exit(run.main(__doc__))
