# SPDX-License-Identifier: Apache-2.0
"""A Python program that uses the bindings; the name of a test is its first argument, a folder the second."""

import os
import select
import signal
import subprocess
import sys
import threading
import time

import torpor

FOLDER = sys.argv[2]
IMAGE = os.path.join(FOLDER, "python.torpor")
COUNT = os.path.join(FOLDER, "count")
COUNTER = f"""
import time
ballast = bytearray(b'x' * (8 << 20))
n = 0
while True:
    n += 1
    open({COUNT!r}, 'w').write(str(n))
    time.sleep(0.002)
"""


def counted():
    with open(COUNT) as f:
        return int(f.read() or 0)


def await_count(beyond):
    end = time.monotonic() + 20
    while not os.path.exists(COUNT) or counted() <= beyond:
        assert time.monotonic() < end, f"it does not count beyond {beyond}"
        time.sleep(0.002)


def start():
    p = subprocess.Popen([sys.executable, "-c", COUNTER], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    await_count(0)
    return p


def cycle():
    p = start()
    steps, log, pids = [], [], []
    checked = torpor.check(p.pid)
    assert checked.pid == p.pid and checked.tasks == 1 and checked.name.startswith("python") and checked.bytes >= 8 << 20
    result = torpor.dump(p.pid, IMAGE, sync=False, progress=steps.append, log=log.append)
    assert result.path == IMAGE and result.threads == 1 and result.bytes >= 8 << 20 and 0 < result.frozen < 10, result
    assert p.wait() == -signal.SIGKILL
    assert steps[-1].done == steps[-1].total and steps[-1].unit == "bytes" and steps[-1].step == "saving memory", steps[-1]
    assert any("froze 1 task" in line for line in log), log
    torpor.verify(IMAGE)
    at = counted()
    with torpor.restore(IMAGE, ready=pids.append) as program:
        assert pids == [program.pid] and program.poll() is None
        await_count(at + 5)
        os.kill(program.pid, signal.SIGKILL)
        assert select.select([program], [], [], 10)[0], "its end is not told"
        assert program.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL) and program.poll() == program.returncode


def errors():
    p = start()
    a, b = os.pipe()
    q = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=a, stdout=subprocess.DEVNULL, pass_fds=[a],
                         stderr=subprocess.DEVNULL)
    os.close(a)
    r = subprocess.Popen(["sleep", "100"], pass_fds=[b], stdin=subprocess.DEVNULL)
    os.close(b)
    try:
        torpor.dump(r.pid, IMAGE)
        raise AssertionError("a pipe that leads outside was saved")
    except torpor.Refused as e:
        assert e.obstacles and e.obstacles[0].id.startswith("E-") and torpor.explain(e.obstacles[0].id), e
        assert str(e).count("\n") >= 1 and "cannot save" in e.text
    assert not os.path.exists(IMAGE) and r.poll() is None
    for wrong, kind in ((lambda: torpor.dump(1, IMAGE), torpor.Usage), (lambda: torpor.Image("/dev/null"), torpor.Damaged),
                        (lambda: torpor.restore(IMAGE), torpor.Failed), (lambda: torpor.run(["/no/such/program"]), torpor.Refused),
                        (lambda: torpor.find("nobody-has-this"), torpor.Refused), (lambda: torpor.restore(IMAGE, tier="x"), torpor.Usage)):
        try:
            wrong()
        except kind as e:
            assert e.text
        else:
            raise AssertionError(f"no {kind}")
    assert torpor.explain("E-NO-SUCH-ID") is None

    def stumble(progress):
        raise ZeroDivisionError

    try:  # what a callback raises is raised when the library has returned
        torpor.dump(p.pid, IMAGE, progress=stumble, keep_running=True)
        raise AssertionError("it was swallowed")
    except ZeroDivisionError:
        pass
    p.kill()
    p.wait()
    try:
        torpor.restore(IMAGE, ready=stumble)
        raise AssertionError("it was not called off")
    except (ZeroDivisionError, torpor.Error):
        pass
    for other in (q, r):
        other.kill()
        other.wait()


def look():
    p = start()
    torpor.dump(p.pid, IMAGE)
    p.wait()
    with torpor.Image(IMAGE, verify=True) as image:
        task, = image.tasks
        assert task.pid == p.pid and task.state == "running" and task.stored_bytes >= 8 << 20 and image.damage is None
        assert [f.fd for f in task.fds][:3] == [0, 1, 2] and task.fds[0].kind == "device" and "/dev/null" in task.fds[0].description
        data = image.data()
        assert data["image"]["tasks"][0]["pid"] == p.pid and data["image"]["spaces"][0]["mappings"][3]["start"] > 0
        assert data["file"]["bytes"] == os.path.getsize(IMAGE) and isinstance(data["image"]["tasks"][0]["threads"][0]["regs"], str)
        assert image.core(IMAGE + ".core") == p.pid and open(IMAGE + ".core", "rb").read(4) == b"\x7fELF"
    assert any(line.startswith("who makes whom") for line in torpor.restore_plan(IMAGE))
    with open(IMAGE, "r+b") as f:  # a byte of some page
        f.seek(-(os.path.getsize(IMAGE) // 2), os.SEEK_END)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    try:
        torpor.verify(IMAGE)
        raise AssertionError("damage was not found")
    except torpor.Damaged as e:
        assert e.id == "E-IMAGE-DAMAGED"
    assert torpor.machine().dump and os.getpid() not in [q.pid for q in torpor.processes()]
    assert torpor.version().count(".") == 2


def parents():
    p = start()
    torpor.dump(p.pid, IMAGE, keep_running=True, track=True)
    assert torpor.untrack(p.pid) and not torpor.untrack(p.pid)
    first = torpor.dump(p.pid, IMAGE, keep_running=True, pause="copy", compress="zstd")
    assert first.packed_bytes < first.bytes and first.parent_bytes == 0 and not first.while_running, first
    second = torpor.dump(p.pid, IMAGE + "2", parent=IMAGE)
    assert second.parent_bytes >= 8 << 20 and second.bytes < first.bytes, second
    p.wait()
    assert torpor.squash(IMAGE + "2", IMAGE + "3") == 2
    os.unlink(IMAGE)
    torpor.verify(IMAGE + "3")
    try:
        torpor.verify(IMAGE + "2")
        raise AssertionError("its parent is gone")
    except torpor.Error as e:
        assert e.id == "E-IMAGE-PARENT", e
    at = counted()
    with torpor.restore(IMAGE + "3") as program:
        await_count(at + 5)
        os.kill(program.pid, signal.SIGKILL)
        program.wait()


def myself():
    """Threads of Python's own are saved with it."""
    ticks = []

    def tick():
        while True:
            ticks.append(time.monotonic())
            time.sleep(0.001)

    threading.Thread(target=tick, daemon=True).start()
    restored = torpor.dump_self(IMAGE)
    n = len(ticks)
    time.sleep(0.05)
    assert len(ticks) > n, "the other thread stands"
    with open(os.path.join(FOLDER, "restored" if restored else "original"), "w") as f:
        f.write(str(os.getpid()))
    sys.exit(11 if restored else 0)


if __name__ == "__main__":
    {"cycle": cycle, "errors": errors, "look": look, "parents": parents, "myself": myself}[sys.argv[1]]()
