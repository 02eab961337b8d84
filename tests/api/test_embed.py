# SPDX-License-Identifier: Apache-2.0
"""A program with threads, handlers and limits of its own uses libtorpor: see embed.c."""

import os

from harness import Failure, case, read


def use(t, name):
    pid = t.start([os.path.join(t.setup.library, "embed"), name, t.work], environment={"LD_LIBRARY_PATH": t.setup.library})
    status = t.wait_exit(pid)
    if status:
        raise Failure(f"status {status}: {read(os.path.join(t.logs, 'stderr'), '')}")


for test in ("cycle", "detach", "refused", "interrupted", "killed", "threads", "run"):
    case(f"embed-{test}")(lambda t, test=test: use(t, test))
