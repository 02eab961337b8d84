# SPDX-License-Identifier: Apache-2.0
"""Python: an event loop with timers, a subprocess that answers, and a datagram of the loop's own."""

import asyncio
import sys

from common import expect, report, stopping

ECHO = "import sys\nfor line in sys.stdin:\n print(int(line) * 3, flush=True)"


async def talk():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdin=asyncio.subprocess.PIPE,
                                                 stdout=asyncio.subprocess.PIPE)
    number = 0
    while not stopping():
        number += 1
        child.stdin.write(f"{number}\n".encode())
        await child.stdin.drain()
        answer = int(await child.stdout.readline())
        expect(answer == number * 3, f"answer {answer} to {number}")
        report(f"talk {number}")
        await asyncio.sleep(0.005)
    child.stdin.close()
    expect(await child.wait() == 0, "status of the child")


async def tick():
    number = 0
    while not stopping():
        number += 1
        report(f"tick {number}")
        await asyncio.sleep(0.01)


async def compute():
    loop = asyncio.get_running_loop()
    number = 0
    while not stopping():
        number += 1
        result = await loop.run_in_executor(None, lambda: sum(range(1000)))
        expect(result == 499500, "result of the executor")
        report(f"compute {number}")
        await asyncio.sleep(0.01)


async def main():
    await asyncio.gather(talk(), tick(), compute())

asyncio.run(main())
report("done")
