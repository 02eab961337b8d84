# SPDX-License-Identifier: Apache-2.0
"""Perl with a child at two pipes, Ruby with threads."""

from harness import case, counting


@case("perl", needs=["perl"])
def perl(t):
    counting(t, ["perl", t.target("counter.pl")], ["loop"])


@case("ruby-threads", needs=["ruby"])
def ruby(t):
    counting(t, ["ruby", t.target("threads.rb")], ["ring", "garbage"])
