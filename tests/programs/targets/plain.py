# SPDX-License-Identifier: Apache-2.0
"""Python: a large checksummed memory of which every step changes a part."""

import random
import sys
import time
import zlib

from common import expect, report, stopping

PART = 64 * 1024
parts = int(sys.argv[1]) * 16  # MiB
maker = random.Random(4711)
memory = bytearray()
for _ in range(parts):
    memory += maker.randbytes(PART)
sums = [zlib.crc32(memory[k * PART:(k + 1) * PART]) for k in range(parts)]
chooser = random.Random(1)
twin = random.Random(1)  # must give the same numbers for ever
history = []
number = 0
while not stopping():
    number += 1
    k = chooser.randrange(parts)
    expect(k == twin.randrange(parts), "random state")
    part = memory[k * PART:(k + 1) * PART]
    expect(zlib.crc32(part) == sums[k], f"part {k} in step {number}")
    part[number % PART] ^= 0x55
    memory[k * PART:(k + 1) * PART] = part
    sums[k] = zlib.crc32(part)
    history.append(number)
    report(f"step {number}")
    time.sleep(0.005)
for k in range(parts):
    expect(zlib.crc32(memory[k * PART:(k + 1) * PART]) == sums[k], f"part {k} at the end")
expect(history == list(range(1, number + 1)), "history")
report("done")
