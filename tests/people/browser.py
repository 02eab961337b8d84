#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The page of torpor inspect --html in a browser (Debian: chromium), which is too large for the ordinary tests.

    browser.py [--torpor FILE]

Its scripts run, and nothing of an image becomes an element. Set-up and reporting are those of tests/programs. With
TORPOR_PAGE_SHOT=FILE.png it leaves a picture of the page.
"""

import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "programs"), HERE]
import harness  # noqa: E402
import run  # noqa: E402
import test_inspect  # noqa: E402
from test_html import Page  # noqa: E402

harness.CASES.clear()  # those of test_inspect and test_html
BROWSER = """chromium --headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run
--virtual-time-budget=4000 --window-size=1300,1900""".split()


def browse(t, page, *arguments):
    done = subprocess.run([*BROWSER, f"--user-data-dir={t.path('browser')}", *arguments, "file://" + page],
                          capture_output=True, text=True, timeout=60 * t.limit_factor())
    if done.returncode:
        raise harness.Failure(f"chromium ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


@harness.case("browser", needs=["chromium"])
def browser(t):
    root, (one, two), port, *_ = test_inspect.family(t)
    t.dump(root)
    page = t.path("page.html")
    t.torpor("inspect", t.image(), "--html", page)
    shown = browse(t, page, "--dump-dom")
    tags = Page(shown).tags
    if "b" in tags or "i" in tags or tags.count("script") != 2:
        raise harness.Failure("something of the image became an element")
    tree = shown[shown.index('id="tree"'):shown.index('id="map"')]
    if tree.count("<tr") != 3 or not all(f">{pid} python3<" in tree for pid in (root, one, two)):
        raise harness.Failure(f"the processes are not shown: {tree[:500]!r}")
    test_inspect.expect(shown, r"&lt;/script&gt;&lt;i&gt;", rf"127\.0\.0\.1:{port}", r"id=\"matches\">\d{2,} matches",
                        "copying memory",
                        rf">{one} fd \d+</td><td>⇄</td><td>{two} fd \d+<")
    if os.environ.get("TORPOR_PAGE_SHOT"):
        browse(t, page, "--screenshot=" + os.path.abspath(os.environ["TORPOR_PAGE_SHOT"]))


if __name__ == "__main__":
    sys.exit(run.main(__doc__))
