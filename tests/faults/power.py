#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any moment of a dump: a tree that was ended has an image, and a name never leads to half of one.

    power.py [--torpor FILE] [--list] [NAME...]

strace records what a dump does to its files, and when it ends the tree. The recording is cut after each call, and in the
middle of those that overlap. Of what the disk would hold then, the worst is assumed: what was written since the last
fsync of the file is there, is not, or some of its pages are; a rename is there or not until its folder was flushed.
TORPOR_TEST_LOSSES=N tries N random choices of pages for each cut (2) besides none and all.
"""

import hashlib
import os
import random
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Steady, compile_steady, files, main, read_bytes  # noqa: E402
from harness import Failure, case, read, stat_of  # noqa: E402

LOSSES = int(os.environ.get("TORPOR_TEST_LOSSES", "2"))
PAGE = 4096
NEVER = 1 << 60
# Calls on the file or its folder that change neither.
HARMLESS = {"close", "fcntl", "fstat", "newfstatat", "statx", "lseek", "sync_file_range", "fstatfs", "readlink"}


# ---- the recording ----

class Call:
    """A system call, and between which lines of the recording it was at work."""

    def __init__(self, name, begun):
        self.name, self.begun, self.ended, self.text = name, begun, NEVER, ""

    def end(self, at):
        self.ended = at

    def done(self, cut):
        """It had returned, with success."""
        return self.ended < cut and not re.search(r"\) += -\d", self.text)


def parse(text):
    """The calls of a recording of strace -f, in the order in which they began."""
    calls, open_calls = [], {}
    for at, line in enumerate(text.splitlines()):
        pid, rest = line.split(None, 1)
        resumed = re.match(r"<\.\.\. (\w+) resumed>", rest)
        begun = re.match(r"(\w+)\(", rest)
        if resumed:
            call = open_calls.pop(pid)
            call.text += rest[resumed.end():]
        elif begun:
            call = Call(begun.group(1), at)
            call.text = rest
            calls.append(call)
        else:
            continue  # a signal, or an end
        if rest.endswith("<unfinished ...>"):
            call.text = call.text[:-len("<unfinished ...>")]
            open_calls[pid] = call
        else:
            call.end(at)
    return calls


class Recording:
    """What a dump did to the folder of its image, and when it said that it had succeeded."""

    def __init__(self, text, path):
        self.path, self.folder = path, os.path.dirname(path)
        self.writes, self.flushes, self.renames, self.folder_flushes, self.words = [], [], [], [], []
        self.cuts = {0}
        for call in parse(text):
            self.sort(call)
        self.check()

    def sort(self, call):
        known = self.room(call)
        if known is not None:
            known.append(call)
            self.cuts |= {call.begun, call.begun + 1, call.ended, call.ended + 1} - {NEVER, NEVER + 1}
        elif self.path in call.text or f"<{self.folder}>" in call.text:
            created = call.name == "openat" and re.search(r"O_CREAT\|O_EXCL|O_DIRECTORY", call.text)
            if call.name not in HARMLESS and not created:
                raise Failure(f"a call that the replay does not know: {call.name}{call.text[:300]}")

    def room(self, call):
        """Where a call belongs that matters here."""
        part = f"<{self.path}.part-"
        if call.name == "pwrite64" and part in call.text:
            return self.writes
        if call.name in ("fsync", "fdatasync") and part in call.text:
            return self.flushes
        if call.name == "renameat" and f"<{self.folder}>" in call.text:
            return self.renames
        if call.name == "fsync" and f"<{self.folder}>" in call.text:
            return self.folder_flushes
        if call.name in ("pidfd_send_signal", "kill", "tgkill") and "SIGKILL" in call.text:
            return self.words
        if call.name == "write" and re.match(r"write\(1[<,]", call.text):
            return self.words
        return None

    def check(self):
        """What the replay relies on: nothing is written twice, so that the finished file tells what each write held."""
        end = 0
        for offset, size in sorted(map(extent, self.writes)):
            if offset < end:
                raise Failure(f"the bytes at {offset} are written twice")
            end = offset + size
        if len(self.renames) != 1 or not self.writes or not self.words:
            raise Failure(f"{len(self.writes)} writes, {len(self.renames)} renames, {len(self.words)} words of success")


def extent(call):
    """(offset, size) of a write."""
    found = re.search(r", (\d+) ?\) += (\d+)$", call.text)  # a blank: it was recorded in two lines
    if not found:
        raise Failure(f"a write that failed: {call.text[-200:]}")
    return int(found.group(1)), int(found.group(2))


# ---- what the disk may hold ----

class Moment:
    """The power fails before the line `cut` of a recording."""

    def __init__(self, recording, cut, final):
        flushed = max((f.begun for f in recording.flushes if f.done(cut)), default=-1)
        self.safe, self.loose = [], []  # pieces (offset, bytes) of one page each
        for call in recording.writes:
            if call.begun < cut:
                (self.safe if call.ended < flushed else self.loose).extend(pieces(*extent(call), final))
        rename = recording.renames[0]
        self.may_be_renamed = rename.begun < cut
        self.must_be_renamed = rename.ended < cut and any(
            f.begun > rename.ended and f.done(cut) for f in recording.folder_flushes)
        self.said = any(word.begun < cut for word in recording.words)

    def contents(self):
        """What the file may hold: nothing of what is loose, all of it, some of it; with and without a hole at the end."""
        yield assemble(self.safe)
        if not self.loose:
            return
        whole = assemble(self.safe + self.loose)
        yield whole
        yield assemble(self.safe, len(whole))
        for _ in range(LOSSES):
            share = random.random()
            some = [p for p in self.loose if random.random() < share]
            yield assemble(self.safe + some)
            yield assemble(self.safe + some, len(whole))
        lost = random.randrange(len(self.loose))
        yield assemble(self.safe + self.loose[:lost] + self.loose[lost + 1:], len(whole))

    def names(self):
        """Whether the final name leads to the new file."""
        return [True] if self.must_be_renamed else [False, True] if self.may_be_renamed else [False]


def pieces(offset, size, final):
    """A write, page by page."""
    end = offset + size
    while offset < end:
        until = min(end, offset - offset % PAGE + PAGE)
        yield offset, final[offset:until]
        offset = until


def assemble(parts, size=0):
    content = bytearray(max([size] + [offset + len(data) for offset, data in parts]))
    for offset, data in parts:
        content[offset:offset + len(data)] = data
    return bytes(content)


class Verdicts:
    """What torpor verify says of a content; each is asked for once."""

    def __init__(self, t):
        self.t, self.known = t, {}
        self.path = t.path("state.torpor")

    def accepts(self, content):
        key = hashlib.sha256(content).digest()
        if key not in self.known:
            with open(self.path, "wb") as f:
                f.write(content)
            done = subprocess.run([self.t.setup.binary, "verify", "--quiet", self.path], capture_output=True, text=True)
            if done.returncode not in (0, 4):
                raise Failure(f"torpor verify ends with {done.returncode}: {done.stderr}")
            self.known[key] = done.returncode == 0
        return self.known[key]


class Replay:
    """All cuts of a recording, and all that the disk may hold then."""

    def __init__(self, t, recording, older, final):
        self.verdicts, self.older, self.final = Verdicts(t), older, final
        self.prefixes = self.states = 0
        self.wrong = []
        for cut in sorted(recording.cuts):
            self.prefixes += 1
            moment = Moment(recording, cut, final)
            for content in moment.contents():
                for renamed in moment.names():
                    self.states += 1
                    self.judge(f"cut {cut}", moment, content, renamed)

    def judge(self, where, moment, content, renamed):
        """The promise, for one state of the disk."""
        named = content if renamed else self.older
        if self.verdicts.accepts(content) != (content == self.final):
            self.wrong.append(f"{where}: verify mistakes {len(content)} bytes of {len(self.final)} for an image, or the reverse")
        if moment.said and named != self.final:
            self.wrong.append(f"{where}: the tree has been ended, but its image is not there")
        if named not in (self.older, self.final):
            self.wrong.append(f"{where}: the name leads to {len(named)} bytes that are neither the old image nor the new one")


# ---- cases ----

def record(t, program, *options):
    """Dump, and what strace saw of it."""
    trace = os.path.join(t.base, "trace")
    user = ["-u", t.setup.account.pw_name] if t.setup.account else []
    t.launcher = ["strace", "-f", "-y", "-s", "0", "-o", trace, *user, "-e",
                  "trace=%desc,%file,kill,tgkill,pidfd_send_signal"]
    t.torpor("dump", program.root, "-o", t.image(), *options)
    t.launcher = []
    return Recording(read(trace), t.image())


def replay(t, *options, children=0, over_older=False):
    program = Steady(t, children)
    older = None
    if over_older:
        t.dump(program.root, keep=True)
        older = read_bytes(t.image())
    program.mark()
    recording = record(t, program, *options)
    if "--keep-running" in options:
        program.check()
    else:
        t.until(lambda: not stat_of(program.root), 5, "the end of the program")
    if files(t) != [os.path.basename(t.image())]:
        raise Failure(f"there are other files: {files(t)}")
    final = read_bytes(t.image())
    result = Replay(t, recording, older, final)
    print(f"    {t.name}: {len(recording.writes)} writes, {len(final)} bytes: {result.prefixes} prefixes, {result.states} states, "
          f"{len(result.verdicts.known)} different contents, {len(result.wrong)} wrong", flush=True)
    return result


def holds(t, *options, **more):
    seed = random.randrange(1 << 32)
    random.seed(seed)
    t.log(f"seed {seed}")
    result = replay(t, *options, **more)
    if result.wrong:
        raise Failure(f"seed {seed}: {len(result.wrong)} wrong, the first: {result.wrong[0]}")


for _name, _options, _more in (("one", (), {}), ("tree", (), {"children": 3}), ("over-older", (), {"over_older": True}),
                               ("keep-running", ("--keep-running",), {"over_older": True})):
    case(f"power-{_name}", needs=["strace"], limit=900)(
        lambda t, options=_options, more=_more: holds(t, *options, **more))


@case("power-no-sync", needs=["strace"], limit=900)
def no_sync(t):
    """Without fsync there is no promise, and the replay must find out."""
    wrong = " / ".join(replay(t, "--no-sync", over_older=True).wrong)
    for words in ("has been ended, but its image is not there", "neither the old image nor the new one"):
        if words not in wrong:
            raise Failure(f"the replay does not find '{words}' where nothing is flushed")


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
