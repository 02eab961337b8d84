# SPDX-License-Identifier: Apache-2.0
"""Parents, groups, sessions, zombies, stopped tasks, orphans."""

from harness import PYTHON, case, counting


@case("tree")
def tree(t):
    labels = ["root", "orphan", "orphangroup", "groupless", "member", "joined", "deep"]
    counting(t, [PYTHON, "-B", t.target("family.py")], labels)
