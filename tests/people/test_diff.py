# SPDX-License-Identifier: Apache-2.0
"""torpor diff: what a program has changed between two images, and nothing where it has not."""

import os
import re
import signal

from harness import PYTHON, Failure, case, read, tree_of
from test_inspect import HERE, expect


@case("diff")
def diff(t):
    root = t.start([PYTHON, "-B", t.write("changing.py", read(os.path.join(HERE, "changing.py")))])
    t.until(lambda: "ready" in read(f"{t.logs}/stdout", ""), 10, "it is ready")
    t.until(lambda: read(f"/proc/{root}/wchan", "").strip() not in ("", "0"), 10, "it sleeps")
    t.dump(root, "first", keep=True)
    t.dump(root, "again", keep=True)
    same = t.torpor("diff", t.image("first"), t.image("again")).out
    expect(same, r"^from .* to .*, \d+\.\d s later$", rf"^{root} python3$",
           r"^0 changes; pages: 0 changed, 0 new, 0 gone, \d{2,} the same$")

    os.kill(root, signal.SIGUSR1)
    t.until(lambda: "changed" in read(f"{t.logs}/stdout", ""), 10, "it has changed")
    child = tree_of(root)[1]
    t.dump(root, "second", keep=True)
    text = t.torpor("diff", t.image("first"), t.image("second")).out
    expect(text, rf"^  ~ working folder {t.work}/folder, was {t.work}$", r"^  \+ thread \d+ python3$",
           r"^  ~ fd \d+ regular_file .*/after .*, was device /dev/null",
           r"^  ~ mapping .* rw-p anonymous.*; pages: 3 changed, 1 new, 0 gone, 47 the same$",
           rf"^\+ {child} python3, a child of {root}, ", r"^  ~ content of .*; pages: 1 changed, 0 new, 0 gone, 9 the same$")
    back = t.torpor("diff", t.image("second"), t.image("first")).out
    expect(back, r"pages: 3 changed, 0 new, 1 gone, 47 the same$", rf"^- {child} python3")
    total = int(re.search(r"^\d+ changes; pages: (\d+) changed", text, re.M)[1])
    if total < 4:
        raise Failure(f"only {total} pages in all")
    t.torpor("diff", "--exit-code", t.image("first"), t.image("again"))
    t.torpor("diff", "--exit-code", t.image("first"), t.image("second"), expect=1)
    t.torpor("diff", t.image("first"), expect=2)
    expect(t.torpor("diff", t.image("first"), "/etc/passwd", expect=4).err, "E-IMAGE-NONE")
