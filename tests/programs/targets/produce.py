# SPDX-License-Identifier: Apache-2.0
"""Writes numbers as fast as the pipe takes them."""

import os

number = 0
while not os.path.exists("stop"):
    lines = b"".join(b"%d\n" % n for n in range(number + 1, number + 101))
    number += 100
    os.write(1, lines)
