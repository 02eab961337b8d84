# SPDX-License-Identifier: Apache-2.0
"""Holds MIB of memory of which no page is like another, and touches a little of it all the time."""

import random
import sys
import time

mib = int(sys.argv[1])
block = random.Random(1).randbytes(1 << 20)
memory = bytearray(mib << 20)
for k in range(mib):
    at = k << 20
    memory[at:at + (1 << 20)] = block
    for page in range(0, 1 << 20, 4096):
        memory[at + page:at + page + 8] = (at + page).to_bytes(8, "little")
with open("ready", "w"):
    pass
count = 0
while True:
    count += 1
    memory[count * 4096 % len(memory)] = count & 255
    time.sleep(0.01)
