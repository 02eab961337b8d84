# SPDX-License-Identifier: Apache-2.0
"""Node: timers, a worker thread, the thread pool."""

from harness import case, counting


@case("node", needs=["node"])
def node(t):
    counting(t, ["node", t.target("worker.js")], ["timer", "trip", "pool", "file"])
