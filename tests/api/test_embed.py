# SPDX-License-Identifier: Apache-2.0
"""A program with threads, handlers and limits of its own uses libtorpor: see embed.c."""

import os
import shutil
import subprocess

from harness import Failure, Skip, case, read


def use(t, name):
    pid = t.start([os.path.join(t.setup.library, "embed"), name, t.work], environment={"LD_LIBRARY_PATH": t.setup.library})
    status = t.wait_exit(pid)
    if status:
        raise Failure(f"status {status}: {read(os.path.join(t.logs, 'stderr'), '')}")


for test in ("cycle", "stack", "detach", "refused", "interrupted", "killed", "threads", "run"):
    case(f"embed-{test}")(lambda t, test=test: use(t, test))


@case("embed-capable")
def capable(t):
    """With the capability of its file, which the loader gives no library path: linked statically."""
    if os.geteuid():
        raise Skip("only root gives capabilities")
    copy = shutil.copy(os.path.join(t.setup.library, "embed_static"), os.path.join(t.base, "embed"))
    os.chmod(copy, 0o755)
    subprocess.run(["setcap", "cap_checkpoint_restore=ep", copy], check=True)
    pid = t.start([copy, "capable", t.work])
    if t.wait_exit(pid):
        raise Failure(read(os.path.join(t.logs, "stderr"), ""))
