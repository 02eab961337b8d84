# SPDX-License-Identifier: Apache-2.0
"""The page of torpor inspect --html: self-contained, and nothing in an image can become markup. browser.py looks at it in
a browser, which is too large for the ordinary tests."""

import html.parser
import json
import os
import re

from harness import Failure, case, read
from test_inspect import damage, expect, family, metadata_of

LOADING = {"img", "link", "iframe", "object", "embed", "audio", "video", "source", "base", "form"}


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.tags, self.attributes, self.data, self.inside = [], [], "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = ("id", "data") in attrs

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.data += data


@case("html")
def page(t):
    root, (one, two), port, reader, writer = family(t)
    t.dump(root)
    path = t.path("page.html")
    t.torpor("inspect", t.image(), "--html", path)
    if os.stat(path).st_mode & 0o077:
        raise Failure("others may read the page")
    text = read(path)
    parsed = Page(text)
    if LOADING & set(parsed.tags) or parsed.tags.count("script") != 2 or "b" in parsed.tags or "i" in parsed.tags:
        raise Failure(f"elements that do not belong there: {sorted(set(parsed.tags))}")
    for name, value in parsed.attributes:
        if name in ("src", "href", "action") or name.startswith("on"):
            raise Failure(f"the attribute {name}={value!r}")
    text = text.replace('"http://www.w3.org/2000/svg"', "")  # a name, not an address
    if re.search(r"https?:|//[a-z]+\.|innerHTML|insertAdjacent|document\.write|eval\(", text):
        raise Failure("the page loads something, or makes markup of text")
    expect(text, r"Content-Security-Policy\" content=\"default-src 'none'")
    raw = text[text.index('id="data">') + 10:text.rindex("</script>")]
    if re.search("[<>&\u2028\u2029\x1b]", raw):
        raise Failure("the data are not escaped")
    check_data(json.loads(parsed.data), root, one, two, port, reader, writer)
    expect(t.torpor("inspect", t.image(), "--html", path, expect=5).err, "page.html")


def check_data(data, root, one, two, port, reader, writer):
    tasks = {task["pid"]: task for task in data["tasks"]}
    if set(tasks) != {root, one, two} or tasks[one]["ppid"] != root or len(tasks[root]["threads"]) != 2:
        raise Failure(f"the tasks are {tasks}")
    texts = [o["text"] for o in data["objects"]]
    if not any("<b>\x1b[31m\u2028&'\"\\.txt" in text for text in texts) or not any(str(port) in text for text in texts):
        raise Failure(f"a name is not what it was: {texts}")
    if "</script><i>" not in tasks[root]["cmdline"]:
        raise Failure(f"the command line is {tasks[root]['cmdline']!r}")
    pipe = dict(tasks[one]["fds"])[reader]
    if dict(tasks[two]["fds"])[writer] not in data["objects"][pipe]["others"]:
        raise Failure("the two ends of the pipe do not know of each other")
    maps = data["spaces"][tasks[root]["space"]]
    if sum(m[4] for m in maps if len(m) == 6) != tasks[root]["stored"] or not {m[3] for m in maps} >= {0, 1}:
        raise Failure("the bytes of the mappings are not those of the task")


@case("html-damaged")
def page_damaged(t):
    root, *_ = family(t)
    t.dump(root)
    place, _ = metadata_of(t.image())
    with open(t.image(), "rb") as f:
        name = f.read().index(b"family.py", place)
    bad = damage(t, t.image(), "bad", [name])
    t.torpor("inspect", bad, "--html", t.path("page.html"), expect=4)
    data = json.loads(Page(read(t.path("page.html"))).data)
    expect(data["damage"], "checksum")
    if data["tasks"][0]["pid"] != root:
        raise Failure("the processes are not there")
