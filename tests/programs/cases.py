# SPDX-License-Identifier: Apache-2.0
"""How cases are declared and how they end, and what the environment says about all of them."""

import os
import shlex
import shutil

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
COMPILER = shlex.split(os.environ.get("CC", "cc"))  # it may have options, or be run by ccache
ROUNDS = int(os.environ.get("TORPOR_TEST_ROUNDS", "10"))
SLOWER = float(os.environ.get("TORPOR_TEST_SLOWER", "1"))  # factor on all time limits
JOBS = int(os.environ.get("TORPOR_TEST_JOBS", "1"))
ENVIRONMENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failure(Exception):
    """The case does not hold; the text says why."""


class Skip(Exception):
    """The case cannot be tried on this machine; the text says why."""


class Case:
    def __init__(self, name, function, needs, limit, shares_machine):
        self.name, self.function, self.needs, self.limit = name, function, needs, limit
        self.shares_machine = shares_machine  # it looks at processes that are not its own

    def missing(self):
        return [p for p in self.needs if not shutil.which(p, path=ENVIRONMENT_PATH)]


CASES = []


def case(name, needs=(), limit=120, shares_machine=False, **arguments):
    """Declare a case. Arguments beyond these are handed to the function."""
    def register(function):
        CASES.append(Case(name, lambda t: function(t, **arguments), needs, limit * SLOWER,
                          shares_machine))
        return function
    return register
