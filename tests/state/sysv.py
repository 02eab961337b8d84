# SPDX-License-Identifier: Apache-2.0
"""System V objects of saved programs, and what others do with them meanwhile. They outlive programs, so every case
removes those that its program has told of in the files `segments`, `semaphores` and
`messages`."""

import ctypes
import os
import threading

import harness
import selfcheck
from harness import Failure, Skip, case
from selfcheck import Program

IPC_CREAT, IPC_RMID, IPC_STAT, SHM_HUGETLB = 0o1000, 0, 2, 0o4000
FORK_MIN = 400  # PIDs below 300 come up only once
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmdt.argtypes = [ctypes.c_void_p]


def called(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")
    return result


def told(t, name):
    return [list(map(int, line.split())) for line in harness.read(t.path(name), "").splitlines()]


def segments(t):
    """[id, key] of each segment, in the order of sysv_shm.c."""
    return told(t, "segments")


def semaphores(t):
    """[id, key] of each set, in the order of sysv_sem.c."""
    return told(t, "semaphores")


def there(which):
    return libc.shmctl(which, IPC_STAT, ctypes.create_string_buffer(256)) == 0


def remove(t):
    for which, _ in segments(t):
        libc.shmctl(which, IPC_RMID, None)
    for which, _ in semaphores(t):
        libc.semctl(which, 0, IPC_RMID)
    for which, _ in told(t, "messages"):
        libc.msgctl(which, IPC_RMID, None)


def cleaned(function):
    """The case, and the removal of what is left of it."""
    def run(t, **arguments):
        try:
            function(t, **arguments)
        finally:
            t.end_all()
            remove(t)
    run.__name__ = function.__name__
    return run


class Attached:
    """The start of a segment, in this process, which is outside the tree."""

    def __init__(self, which):
        self.address = called("shmat", which, None, 0)

    def __enter__(self):
        return (ctypes.c_char * 8192).from_address(self.address)

    def __exit__(self, *_):
        libc.shmdt(self.address)


def check_shown(t, which, *words):
    """torpor inspect tells of the object with this id."""
    lines = [line for line in t.torpor("inspect", t.image()).out.splitlines() if f" {which}  key " in line]
    if len(lines) != 1 or not all(word in lines[0] for word in words):
        raise Failure(f"torpor inspect says of {which}, instead of {words}: {lines}")


@cleaned
def gone(t):
    """Removed while the program sleeps, as by a reboot: made again, with the same ids."""
    program = Program(t, "sysv_shm")
    for number in range(2):
        t.dump(program.root)
        check_shown(t, segments(t)[2][0], "shared memory", "4.0 KiB, marked for removal")
        remove(t)
        if any(there(which) for which, _ in segments(t)):
            raise Failure("the segments are still there")
        t.restore(program.root)
        program.verify(f"after restore {number + 1}")
    program.end()
    if any(there(which) for which, _ in segments(t)):
        raise Failure("the program's own removal of its segments has failed")


@cleaned
def changed(t):
    """Others have written into a segment: it holds again what it held."""
    program = Program(t, "sysv_shm")
    t.dump(program.root)
    keyed, sparse, removed, cut = (which for which, _ in segments(t))
    if there(removed):
        raise Failure("the segment that was marked for removal has outlived the program")
    with Attached(cut) as memory:
        memory[:8192] = b"\xee" * 8192
    with Attached(sparse) as memory:
        memory[:8192] = b"\xee" * 8192
    t.restore(program.root)
    program.verify("after the restore")
    with Attached(sparse) as memory:
        if memory[0] != b"\0":
            raise Failure("what others had written is still there")
    program.end()


def refused_restore(t, root, *words):
    result = t.restore(root, expect=None)
    if result.status not in (1, 3) or not all(w in result.err for w in words):
        raise Failure(f"torpor does not say {words}: {result}")
    t.until(lambda: not harness.stat_of(root), 10, "the end of the failed restore's tasks")
    return result


@cleaned
def taken(t):
    """Its segments are attached, its keys taken: a restore fails, says so, and leaves no segment behind."""
    program = Program(t, "sysv_shm")
    t.dump(program.root)
    (keyed, key), (sparse, _), (removed, _), _ = segments(t)
    with Attached(sparse):
        refused_restore(t, program.root, f"segment {sparse} ", "is attached by another program")
    if there(removed):
        raise Failure("the failed restore has left a segment that it made")
    called("shmctl", keyed, IPC_RMID, None)
    other = called("shmget", key, 4096, IPC_CREAT | 0o600)
    refused_restore(t, program.root, f"segment {keyed} ", "cannot have its key again")
    if there(removed) or not there(other):
        raise Failure("the failed restore has changed which segments there are")
    called("shmctl", other, IPC_RMID, None)
    t.restore(program.root)
    program.verify("after the failures")
    program.end()


USER = """
import ctypes, time
ctypes.CDLL(None).shmat({}, None, 0)
open("attached", "w")
time.sleep(1000)
"""


@cleaned
def outside(t):
    """A program outside the tree has a segment attached, too."""
    program = Program(t, "sysv_shm")
    sparse = segments(t)[1][0]
    with Attached(sparse) as memory:
        other = t.start([harness.PYTHON, "-c", USER.format(sparse)])
        t.until(lambda: os.path.exists(t.path("attached")), 10, "the other program")
        result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
        if f"segment {sparse} (key 0) is also attached by process {other}, which is outside" not in result.err:
            raise Failure(f"the refusal does not name the segment and the other program: {result}")
        program.ask()
        t.until(lambda: os.path.exists(program.result), 20, "no answer after the refusal")
        t.torpor("dump", program.root, "-o", t.image(), "--external")
        t.end(other)
        memory[0] = b"x"
        t.restore(program.root)
        if memory[0] != b"x":
            raise Failure("the restore has changed a segment that others use")
        program.ask()
        t.until(lambda: os.path.exists(program.result), 20, "no answer")
        if "ds.shm_nattch == s->attached" not in harness.read(program.result):
            raise Failure(f"the program does not see that others have attached it: {harness.read(program.result)}")
    program.verify("when nobody else has it attached")
    program.end()


@cleaned
def without_capability(t):
    """A dump needs no capability, and a restore only where segments are gone."""
    last = "/proc/sys/kernel/ns_last_pid"
    if os.access(last, os.W_OK) and int(harness.read(last)) < FORK_MIN:
        with open(last, "w") as f:
            f.write(str(FORK_MIN))
    program = Program(t, "sysv_shm", "staying")
    capable = t.setup.binary
    t.setup.give_up_capability()
    t.dump(program.root)
    t.setup.binary = capable
    t.restore(program.root)
    program.verify("after the restore")
    t.dump(program.root)
    remove(t)
    t.setup.give_up_capability()
    result = t.torpor("restore", t.image(), "--detach", "--tier", "fork", "--fork-limit", 1 << 40, expect=3)
    for words in "the System V shared memory segment ", "is gone: torpor may not choose its id", "setcap":
        if words not in result.err:
            raise Failure(f"torpor does not say {words!r}: {result}")
    if any(there(which) for which, _ in segments(t)):
        raise Failure("the failed restore has left a segment")


@cleaned
def same_number(t):
    """A segment with the number of a memfd: each keeps its own content."""
    if os.geteuid() != 0:
        raise Skip("only the privileged can choose ids")

    def answer():
        t.until(lambda: os.path.exists(t.path("number")), 10, "the number of the memfd")
        number = harness.read(t.path("number")).strip()
        with open("/proc/sys/kernel/shm_next_id", "w") as f:
            f.write(number)
        which = called("shmget", 0, 8192, IPC_CREAT | 0o666)
        t.write("segments", f"{which} 0\n")
        t.write("id", str(which))
    thread = threading.Thread(target=answer)
    thread.start()
    program = Program(t, "sysv_same")
    thread.join()
    for number in range(2):
        t.cycle(program.root)
        program.verify(f"after restore {number + 1}")
    program.end()


ATTACH = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
ctypes.memset(libc.shmat({}, None, 0), 1, 1)
open("attached", "w")
time.sleep(1000)
"""


def huge_segment(t, _):
    """Only the privileged can make one: refused."""
    try:
        which = called("shmget", 0, 2 << 20, IPC_CREAT | SHM_HUGETLB | 0o666)
    except OSError as e:
        raise Skip(f"no huge pages: {e}")
    t.write("segments", f"{which} 0\n")
    root = t.start([harness.PYTHON, "-c", ATTACH.format(which)])
    try:
        t.until(lambda: os.path.exists(t.path("attached")), 10, "the program")
        result = t.torpor("dump", root, "-o", t.image(), expect=1)
        if "is a System V shared memory segment in hugetlb pages" not in result.err:
            raise Failure(f"torpor does not say what is in the way: {result}")
    finally:
        t.end_all()
        remove(t)


# ---- semaphores ----

GETVAL, SETVAL = 12, 16


def sem_values(t):
    return [libc.semctl(which, number, GETVAL) for which, _ in semaphores(t) for number in range(3)]


@cleaned
def sem_running(t):
    """A dump that lets the program run on has asked what it has to undo, and changed nothing."""
    program = Program(t, "sysv_sem")
    before = sem_values(t)
    for number in range(3):
        t.torpor("dump", program.root, "-o", t.image(), "--keep-running")
        if sem_values(t) != before:
            raise Failure(f"the values {before} became {sem_values(t)}")
    program.verify("after dumps with --keep-running")
    program.end()


@cleaned
def sem_gone(t):
    """Removed meanwhile, or changed: the sets have their ids and values again."""
    program = Program(t, "sysv_sem")
    t.dump(program.root)
    check_shown(t, semaphores(t)[0][0], "semaphores", "mode 640", "3, 2 tasks have something to undo")
    remove(t)
    t.restore(program.root)
    program.verify("after the removal")
    t.dump(program.root)
    called("semctl", semaphores(t)[0][0], 0, SETVAL, 5)
    t.restore(program.root, expect=1)  # this process set it last, and is still there
    if libc.semctl(semaphores(t)[0][0], 0, GETVAL) != 5:
        raise Failure("the refused restore has changed a value")
    if os.fork() == 0:
        os._exit(libc.semctl(semaphores(t)[0][0], 0, SETVAL, 6))
    os.wait()
    t.restore(program.root)
    program.verify("after the change")
    program.end()


@cleaned
def sem_failed(t):
    """A restore that fails leaves values, and removes what it has made."""
    program = Program(t, "sysv_sem")
    t.dump(program.root)
    before = sem_values(t)
    many = semaphores(t)[1][0]
    called("semctl", many, 0, IPC_RMID)
    t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", expect=None)
    t.until(lambda: not harness.stat_of(program.root), 10, "the end of the failed restore's tasks")
    if sem_values(t) != before[:3] + [-1] * 3 + before[6:]:
        raise Failure(f"the values {before} became {sem_values(t)}")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


@cleaned
def sem_outside(t):
    """This process uses a set, too."""
    program = Program(t, "sysv_sem")
    waited = semaphores(t)[2][0]
    called("semctl", waited, 0, SETVAL, 0)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    if f"semaphore set {waited} (key 0) is also used by process {os.getpid()}, which is outside the tree" not in result.err:
        raise Failure(f"the refusal does not name the set and this process: {result}")
    t.torpor("dump", program.root, "-o", t.image(), "--external")
    t.restore(program.root)
    program.verify("with the set that was left as it is")
    program.end()


# ---- message queues ----

IPC_NOWAIT = 0o4000


class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 2000)]


def receive(queue):
    message = Message()
    size = libc.msgrcv(queue, ctypes.byref(message), 2000, ctypes.c_long(0), IPC_NOWAIT)
    return (message.type, message.text[:size]) if size >= 0 else None


def send(queue, kind, text):
    called("msgsnd", queue, ctypes.byref(Message(kind, text)), len(text), IPC_NOWAIT)


@cleaned
def msg_gone(t):
    """Removed meanwhile, or emptied: the queues have their ids again, and hold what they held."""
    program = Program(t, "sysv_msg")
    for number in range(2):
        t.dump(program.root)
        check_shown(t, told(t, "messages")[0][0], "message queue", "4 messages")
        remove(t)
        t.restore(program.root)
        program.verify(f"after removal {number + 1}")
    t.dump(program.root)
    while receive(told(t, "messages")[0][0]):
        pass
    t.restore(program.root)
    send(told(t, "messages")[0][0], 9, b"late")
    order = [receive(told(t, "messages")[0][0]) for _ in range(5)]
    if order != [(5, b"five"), (1, b"one"), (0x123456789a, b""), (1, b"one, too"), (9, b"late")]:
        raise Failure(f"the queue holds {order}")


@cleaned
def msg_changed(t):
    """Others have received one: refused. They have sent one: it is there as well."""
    program = Program(t, "sysv_msg")
    t.dump(program.root)
    queue = told(t, "messages")[0][0]
    first = receive(queue)
    refused_restore(t, program.root, f"message queue {queue} ", "lost messages that waited in it")
    rest = [m for m in iter(lambda: receive(queue), None)]
    send(queue, 3, b"three")
    for kind, text in [first, *rest]:
        send(queue, kind, text)
    t.restore(program.root)
    if receive(queue) != (3, b"three"):
        raise Failure("the message of others is not there")
    if receive(queue) != first:
        raise Failure("the first message is not there")


@cleaned
def msg_failed(t):
    """A restore that fails removes what it has made."""
    program = Program(t, "sysv_msg")
    t.dump(program.root)
    remove(t)
    t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", expect=None)
    t.until(lambda: not harness.stat_of(program.root), 10, "the end of the failed restore's tasks")
    if any(libc.msgctl(which, IPC_RMID, None) == 0 for which, _ in told(t, "messages")):
        raise Failure("the failed restore has left a queue")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


def declare():
    for way in selfcheck.WAYS:
        case(f"sysv_msg-{way.__name__}", kind="sysv_msg")(cleaned(way))
    for name, function in {"gone": msg_gone, "changed": msg_changed, "failed": msg_failed}.items():
        case(f"sysv_msg-{name}")(function)
    for way in selfcheck.WAYS:
        case(f"sysv_sem-{way.__name__}", kind="sysv_sem")(cleaned(way))
    for name, function in {"running": sem_running, "gone": sem_gone, "failed": sem_failed, "outside": sem_outside}.items():
        case(f"sysv_sem-{name}")(function)
    for way in selfcheck.WAYS:
        case(f"sysv_shm-{way.__name__}", kind="sysv_shm")(cleaned(way))
    for name, function in {"gone": gone, "changed": changed, "taken": taken, "outside": outside,
                           "without-capability": without_capability, "same-number": same_number}.items():
        case(f"sysv_shm-{name}")(function)
