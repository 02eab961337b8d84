# SPDX-License-Identifier: Apache-2.0
"""Python: a server that loads a table and forks workers, each with a socket to it, which answer from the table."""

import gc
import os
import socket
import time

from common import expect, report, stopping

WORKERS, ENTRIES = 5, 60000


def value_of(number):
    return f"{number:08d}" * 24


def serve(connection, table):
    answered = 0
    while True:
        asked = connection.recv(64)
        if not asked:
            os._exit(0)
        answered += 1
        connection.sendall(f"{answered} {table[int(asked)]}".encode())


def start(table):
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        serve(theirs, table)
    theirs.close()
    return pid, ours


def ask(connection, step, number):
    connection.sendall(str(number).encode())
    expect(connection.recv(4096).decode() == f"{step} {value_of(number)}", f"the answer for {number} in step {step}")


table = {number: value_of(number) for number in range(ENTRIES)}
gc.freeze()
workers = [start(table) for _ in range(WORKERS)]
step = 0
while not stopping():
    step += 1
    for number, (pid, connection) in enumerate(workers):
        ask(connection, step, (step * 7919 + number) % ENTRIES)
    report(f"step {step}")
    time.sleep(0.005)
for pid, connection in workers:
    connection.shutdown(socket.SHUT_WR)  # the other workers have it as well
    os.waitpid(pid, 0)
report("done")
