# SPDX-License-Identifier: Apache-2.0
"""What was measured, in words: tables in Markdown, and which targets are reached.

A run is what bench.py writes as JSON: {"machine": text, "programs": {word: {"title": title,
"tools": {word: {figure: [value of each round]}}, "floor": {figure: [...]}}}, "troubles": [text]}. Seconds and bytes."""

import statistics

MIB = 2**20
OWN_MEMORY = 64 * MIB


class Figures:
    """Of one program."""

    def __init__(self, program):
        self.title, self.tools, self.floor = program["title"], program["tools"], program["floor"]

    def values(self, tool, figure):
        return (self.floor if tool == "floor" else self.tools.get(tool, {})).get(figure, [])

    def median(self, tool, figure):
        values = self.values(tool, figure)
        return statistics.median(values) if values else None

    def times(self, tool, figure):
        """How many times as fast, or as small, as CRIU."""
        ours, theirs = self.median(tool, figure), self.median("criu", figure)
        return theirs / ours if ours and theirs else None

    def seconds(self, tool, figure):
        values = self.values(tool, figure)
        if not values:
            return "–"
        return f"{milliseconds(statistics.median(values))} ({milliseconds(min(values))}–{milliseconds(max(values))})"

    def mib(self, tool, figure):
        value = self.median(tool, figure)
        return "–" if value is None else f"{value / MIB:.1f}"

    def factor(self, tool, figure):
        value = self.times(tool, figure)
        return "–" if value is None else f"{value:.1f}×"


def milliseconds(seconds):
    return f"{seconds * 1000:.1f}" if seconds < 0.02 else f"{seconds * 1000:.0f}"


def print_table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " --: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_run(run):
    programs = [Figures(p) for p in run["programs"].values()]
    print(run["machine"] + "\n")
    print_table(["dump, ms", "torpor", "`--no-sync`", "CRIU", "times as fast", "`--no-sync`", "floor: cache", "disk"],
                [[f.title, f.seconds("torpor", "dump"), f.seconds("no-sync", "dump"), f.seconds("criu", "dump"),
                  f.factor("torpor", "dump"), f.factor("no-sync", "dump"), f.seconds("floor", "cache"),
                  f.seconds("floor", "disk")] for f in programs])
    print_table(["restore, ms", "torpor", "CRIU", "times as fast", "floor: small pages", "huge", "cold: torpor", "CRIU",
                 "times as fast", "floor"],
                [[f.title, f.seconds("torpor", "warm"), f.seconds("criu", "warm"), f.factor("torpor", "warm"),
                  f.seconds("floor", "small"), f.seconds("floor", "huge"),
                  f.seconds("torpor", "cold"), f.seconds("criu", "cold"), f.factor("torpor", "cold"),
                  f.seconds("floor", "cold")] for f in programs])
    print_table(["", "image, MiB", "CRIU", "CPU of a dump, ms", "`--no-sync`", "CRIU", "of a restore, ms", "CRIU",
                 "memory, MiB: dump", "CRIU", "restore", "CRIU"],
                [[f.title, f.mib("torpor", "image"), f.mib("criu", "image"), cpu(f, "torpor", "dump cpu"),
                  cpu(f, "no-sync", "dump cpu"), cpu(f, "criu", "dump cpu"), cpu(f, "torpor", "warm cpu"),
                  cpu(f, "criu", "warm cpu"), f.mib("torpor", "dump peak"), f.mib("criu", "dump peak"),
                  f.mib("torpor", "warm peak"), f.mib("criu", "warm peak")] for f in programs])
    for trouble in run["troubles"]:
        print(trouble + "\n")


def cpu(figures, tool, figure):
    value = figures.median(tool, figure)
    return "–" if value is None else f"{value * 1000:.0f}"


# ---- targets ----

class Target:
    """words: of what; value: what was measured, None if it was not; limit; at_least: or at most."""

    def __init__(self, words, value, limit, at_least, unit, best=None):
        """best: the value that the floor would have, where there is one."""
        self.words, self.value, self.limit, self.at_least, self.unit, self.best = words, value, limit, at_least, unit, best

    def reached(self):
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def beyond(self):
        """Whether more is asked than a tool could reach that does nothing but to copy the memory."""
        return self.at_least and self.best is not None and self.best < self.limit and not self.reached()

    def shown(self):
        return f"{self.value:.2f}{self.unit}" if self.unit == "×" else f"{self.value:.1f}{self.unit}"

    def bound(self):
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"


def times_target(figures, words, tool, figure, limit, floor=None):
    theirs, best = figures.median("criu", figure), figures.median("floor", floor)
    return Target(f"{figures.title}: {words}", figures.times(tool, figure), limit, True, "×",
                  theirs / best if theirs and best else None)


def share_target(figures, words, tool, figure, floor, limit):
    ours, best = figures.median(tool, figure), figures.median("floor", floor)
    return Target(f"{figures.title}: {words}", ours / best if ours and best else None, limit, False, "×")


def small_targets(figures):
    for tool, figure, words, limit in (("torpor", "dump", "dump", 5), ("torpor", "warm", "restore", 3)):
        value = figures.median(tool, figure)
        yield Target(f"{figures.title}: {words}", value and value * 1000, limit, False, " ms")


def restore_limit(word):
    """A mapping that forbids huge pages can only be loaded in small ones, and no machine does that so fast."""
    return 5 if word.endswith(("-huge", "-plain")) else 2.5


def restore_floor(word):
    """The least that a restore can take: with huge pages wherever the program may have them."""
    return "huge" if restore_limit(word) == 5 else "small"


def large_targets(word, figures):
    yield times_target(figures, "dump --no-sync, times as fast as CRIU", "no-sync", "dump", 2.5, "cache")
    yield times_target(figures, "dump, safe on the disk, times as fast as CRIU, which is not", "torpor", "dump", 1.5, "disk")
    if figures.floor:
        yield share_target(figures, "dump --no-sync, by the time of a bare copy and the program's end", "no-sync", "dump", "cache", 1.3)
        yield share_target(figures, "dump, by the time of a bare copy to the disk and the program's end", "torpor", "dump", "disk", 1.3)
    yield times_target(figures, "restore, times as fast as CRIU", "torpor", "warm", restore_limit(word), restore_floor(word))
    if figures.floor:
        page = restore_floor(word)
        yield share_target(figures, f"restore, by the time of a bare load into {page} pages", "torpor", "warm", page, 1.3)
        yield share_target(figures, "restore, cold cache, by the time of a bare load", "torpor", "cold", "cold", 1.3)
    yield times_target(figures, "restore, cold cache, times as fast as CRIU", "torpor", "cold", 2, "cold")


def memory_targets(figures):
    for tool, figure, words in (("torpor", "dump peak", "memory of a dump"), ("torpor", "warm peak", "memory of a restore")):
        value = figures.median(tool, figure)
        yield Target(f"{figures.title}: {words}", value and value / MIB, OWN_MEMORY / MIB, False, " MiB")


def targets_of(run):
    for word, program in run["programs"].items():
        figures = Figures(program)
        if word == "1mib":
            yield from small_targets(figures)
        elif word == "tree":
            yield times_target(figures, "dump, times as fast as CRIU", "torpor", "dump", 5)
            yield times_target(figures, "restore, times as fast as CRIU", "torpor", "warm", 5)
        else:
            yield from large_targets(word, figures)
        yield from memory_targets(figures)


def shown_target(target):
    if target.value is None:
        return "not measured"
    if target.beyond():
        return f"*{target.shown()}*, floor {target.best:.2f}{target.unit}"
    return target.shown() if target.reached() else f"**{target.shown()}**"


def targets_of_all(runs):
    """Of the programs that all runs have, in the order of the first: for each target, what each run says of it."""
    found = [{target.words: target for target in targets_of(run)} for run in runs]
    return [[targets[words] for targets in found] for words in found[0] if all(words in targets for targets in found)]


def joined(figures):
    """The rounds of several runs, as of one."""
    return {name: [value for of_run in figures for value in of_run.get(name, [])] for name in figures[0]}


def together(runs):
    """One run that has the rounds of all of them: what is uneven from one run to the next is less so."""
    programs = {}
    for word, first in runs[0]["programs"].items():
        same = [run["programs"][word] for run in runs if word in run["programs"]]
        programs[word] = {"title": first["title"], "floor": joined([p["floor"] for p in same]),
                          "tools": {tool: joined([p["tools"][tool] for p in same]) for tool in first["tools"]}}
    return {"programs": programs}


def verdict_of(targets):
    if all(t.value is not None and t.reached() for t in targets):
        return "reached"
    return "below the floor" if all(t.value is not None and (t.reached() or t.beyond()) for t in targets) else "**missed**"


def counted(lines):
    verdicts = [verdict_of(line) for line in lines]
    return (f"{verdicts.count('reached')} of {len(verdicts)} targets reached, {verdicts.count('below the floor')} ask for less time than "
            f"a bare copy or load of the same bytes took, {verdicts.count('**missed**')} missed")


def print_targets(runs):
    """A line for each target, with a column for each run, and one for all their rounds together. Returns how many are
    missed in a run, though the floor allows them."""
    several = len(runs) > 1
    lines = targets_of_all([*runs, together(runs)] if several else runs)
    each, all_rounds = [line[:len(runs)] for line in lines], [line[len(runs):] for line in lines]
    columns = [*(f"run {i + 1}" for i in range(len(runs))), *(["all rounds"] if several else [])]
    print_table(["target", "", *columns, ""],
                [[line[0].words, line[0].bound(), *map(shown_target, line), verdict_of(line[:len(runs)])] for line in lines])
    print(f"{'In each run: ' if several else ''}{counted(each)}\n")
    if several:
        print(f"By all rounds together: {counted(all_rounds)}\n")
    return sum(verdict_of(line) == "**missed**" for line in each)
