# SPDX-License-Identifier: Apache-2.0
"""Reads `square NUMBER SQUARE` lines at its own pace; every hundred make a step."""

import sys
import time

from common import expect, report

number = 0
for line in sys.stdin:
    number += 1
    expect(line == f"square {number} {number * number}\n", f"line {number}: {line!r}")
    if number % 100 == 0:
        report(f"hundred {number // 100}")
        time.sleep(0.003)
report("done")
