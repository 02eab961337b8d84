# SPDX-License-Identifier: Apache-2.0
"""Python: a pool of processes, a lock and a value in memory that they share."""

import multiprocessing
import time

from common import expect, report, stopping


def prepare(shared):
    global total
    total = shared


def work(number):
    with total.get_lock():
        total.value += number
    return number * number


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    shared_total = multiprocessing.Value("q", 0)
    with multiprocessing.Pool(3, prepare, (shared_total,)) as pool:
        step = 0
        while not stopping():
            numbers = list(range(step * 5 + 1, step * 5 + 6))
            step += 1
            expect(pool.map(work, numbers, chunksize=1) == [n * n for n in numbers], f"squares in step {step}")
            last = numbers[-1]
            expect(shared_total.value == last * (last + 1) // 2, f"total in step {step}: {shared_total.value}")
            report(f"step {step}")
            time.sleep(0.005)
        pool.close()
        pool.join()
    report("done")
