# SPDX-License-Identifier: Apache-2.0
"""Python: eight threads with counters of their own, each signalled by its neighbour, with thread-local state."""

import threading
import time

from common import expect, report, stopping

COUNT = 8
local = threading.local()
turn = [threading.Semaphore(0) for _ in range(COUNT)]
totals = [0] * COUNT
idents = [0] * COUNT


def work(k):
    local.count = 0
    idents[k] = threading.get_native_id()
    while True:
        if not turn[k].acquire(timeout=30):
            report(f"bad thread {k} was not woken")
        if stopping():
            break
        local.count += 1
        totals[k] += 1
        expect(local.count == totals[k], f"thread-local count of thread {k}")
        expect(threading.get_native_id() == idents[k], f"TID of thread {k}")
        report(f"thread{k} {local.count}")
        turn[(k + 1) % COUNT].release()
        time.sleep(0.001)
    turn[(k + 1) % COUNT].release()


threads = [threading.Thread(target=work, args=(k,), name=f"worker {k}") for k in range(COUNT)]
for thread in threads:
    thread.start()
turn[0].release()
for thread in threads:
    thread.join()
expect(max(totals) - min(totals) <= 1, f"totals {totals}")
report("done")
