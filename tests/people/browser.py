#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The page of torpor inspect --html in a browser (Debian: chromium), which is too large for the ordinary tests.

    browser.py [--torpor FILE]

Its scripts run, and nothing of an image becomes an element. Set-up and reporting are those of tests/programs. With
TORPOR_PAGE_SHOT=FILE.png it leaves a picture of the page.
"""

import html
import json
import os
import re
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


# What a person would do, one step after the other; each leaves what the page then shows.
HANDS = """
<script>
"use strict";
const seen = { errors: [] };
window.addEventListener("error", e => seen.errors.push(String(e.message)));
window.addEventListener("load", async () => {
	const get = id => document.getElementById(id), wait = ms => new Promise(done => setTimeout(done, ms));
	const rows = id => get(id).rows.length, search = async text => {
		get("search").value = text;
		get("search").dispatchEvent(new Event("input"));
		await wait(1000);
		return get("matches").textContent;
	};
	const painted = () => new Set(new Uint32Array(get("map").getContext("2d").getImageData(0, 0, get("map").width,
		get("map").height).data.buffer)).size;
	seen.tasks = rows("tree"); seen.matches = get("matches").textContent; seen.colours = painted();
	seen.shares = get("shares").textContent; seen.time = get("timeline").textContent;
	seen.drawn = document.querySelectorAll("#graph line").length;
	seen.found = await search("SEARCH"); seen.rows = rows("found"); seen.nothing = await search("no such thing");
	await search("");
	const last = get("tree").rows[rows("tree") - 1];
	last.click();
	await wait(100);
	seen.chosen = last.className; seen.name = last.cells[0].textContent; seen.own = get("matches").textContent;
	last.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
	seen.all = get("matches").textContent;
	const box = get("map").getBoundingClientRect();
	get("map").dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + 20, clientY: box.top + 40 }));
	seen.under = get("under").textContent;
	document.body.appendChild(document.createElement("output")).textContent = JSON.stringify(seen);
});
</script>
"""


def browse(t, page, *arguments):
    done = subprocess.run([*BROWSER, f"--user-data-dir={t.path('browser')}", "--enable-logging=stderr", *arguments, "file://" + page],
                          capture_output=True, text=True, timeout=60 * t.limit_factor())
    if done.returncode:
        raise harness.Failure(f"chromium ended with {done.returncode}: {done.stderr[-300:]}")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "source: chrome:" not in line]
    if said:
        raise harness.Failure(f"the page says on the console: {said}")
    return done.stdout


def use(t, page, search):
    """Act on the page as a person would; what was seen."""
    acted = t.write("acted.html", harness.read(page).replace("</body>", HANDS.replace("SEARCH", search) + "</body>"))
    shown = browse(t, acted, "--dump-dom")
    found = re.search(r"<output>(.*?)</output>", shown)
    if not found:
        raise harness.Failure("the page has not been used to the end")
    seen = json.loads(html.unescape(found[1]))
    t.log(str(seen))
    if seen["errors"]:
        raise harness.Failure(f"errors: {seen['errors']}")
    return seen


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
                        "copying memory", "There is no record of a restore",
                        rf">{one} fd \d+</td><td[^>]*>⇄</td><td[^>]*>{two} fd \d+<")
    t.restore(root)
    os.unlink(page)
    t.torpor("inspect", t.image(), "--html", page)
    seen = use(t, page, f"127.0.0.1:{port}")
    if seen["tasks"] != 3 or not seen["found"].startswith("3 matches") or not seen["nothing"].startswith("0 matches"):
        raise harness.Failure(f"search finds {seen}")
    if seen["drawn"] < 3:
        raise harness.Failure(f"the graph has {seen['drawn']} lines")
    if seen["chosen"] != "pick chosen" or seen["own"] == seen["all"] or seen["all"] != seen["matches"]:
        raise harness.Failure(f"a click does not choose: {seen}")
    if "The last restore" not in seen["time"] or "processes and memory" not in seen["time"] or "stored of" not in seen["under"]:
        raise harness.Failure(f"it does not show {seen}")
    if os.environ.get("TORPOR_PAGE_SHOT"):
        browse(t, page, "--screenshot=" + os.path.abspath(os.environ["TORPOR_PAGE_SHOT"]))


@harness.case("browser-large", needs=["chromium", "cc"])
def large(t):
    """1,000 processes and 50,000 mappings."""
    program = t.path("crowd")
    subprocess.run([*harness.COMPILER, "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o",
                    program, os.path.join(HERE, "crowd.c")], check=True)
    root = t.start([program])
    t.until(lambda: "ready" in harness.read(f"{t.logs}/stdout", ""), 20, "the crowd stands")
    t.torpor("dump", root, "-o", t.image(), "--keep-running", seconds=120)
    page = t.path("page.html")
    t.torpor("inspect", t.image(), "--html", page)
    seen = use(t, page, "rw-p")
    if seen["tasks"] != 1000 or int(re.match(r"\d+", seen["matches"])[0]) < 50000:
        raise harness.Failure(f"not all is shown: {seen}")
    if int(re.match(r"\d+", seen["found"])[0]) < 25000 or seen["rows"] > 500 or seen["colours"] < 3:
        raise harness.Failure(f"search or map: {seen}")
    if int(re.match(r"\d+", seen["own"])[0]) not in range(50, 100) or "stored of" not in seen["under"]:
        raise harness.Failure(f"a click does not choose: {seen}")
    if os.environ.get("TORPOR_PAGE_SHOT"):
        browse(t, page, "--screenshot=" + os.path.abspath(os.environ["TORPOR_PAGE_SHOT"]) + ".large.png")


if __name__ == "__main__":
    sys.exit(run.main(__doc__))
