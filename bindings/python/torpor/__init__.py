# SPDX-License-Identifier: Apache-2.0
"""Save running process trees in files, and make them again: libtorpor for Python.

    import torpor
    torpor.dump(pid, "nap.torpor")
    with torpor.restore("nap.torpor") as program:
        print(program.pid, program.wait())
"""

import contextlib
import ctypes
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from typing import Any, Optional, Union

from . import _library
from ._library import LINE, LOG, PROGRESS, READY, VISIT

__all__ = [
    "Damaged", "Error", "Explanation", "Failed", "FileDescriptor", "Image", "Machine", "NotPermitted", "Obstacle", "Process", "Program",
    "Progress", "Refused", "Result", "Task", "Usage", "check", "core", "dump", "dump_self", "explain", "find", "machine", "processes",
    "restore", "restore_plan", "run", "squash", "untrack", "verify", "version",
]

_lib = _library.load()

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
TIERS = ("auto", "cap", "root", "userns", "fork")


def _text(raw: Optional[bytes]) -> str:
    """What the library says, and names of files and programs, which need not be UTF-8."""
    return "" if raw is None else os.fsdecode(raw)


# ---- what it returns ----

@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Something that cannot be saved."""
    id: str
    text: str
    help: str


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the id of a message means."""
    id: str
    what: str
    why: str
    act: str


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a long step has come; `unit` is "bytes", or "attempts", which may be over at any time."""
    step: str
    done: int
    total: int
    unit: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What a dump or a check has found out."""
    pid: int
    name: str
    path: str
    tasks: int
    threads: int
    bytes: int
    packed_bytes: int  # what they take in the file
    parent_bytes: int  # not stored: the parent has them
    frozen: float  # seconds that it stood still, at most
    while_running: bool  # it was copied while it ran, but for what it wrote meanwhile
    leftovers: str


@dataclasses.dataclass(frozen=True)
class FileDescriptor:
    fd: int
    kind: str
    description: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A saved process."""
    pid: int
    ppid: int
    name: str
    command: str
    state: str
    threads: int
    stored_bytes: int
    fds: tuple[FileDescriptor, ...]


@dataclasses.dataclass(frozen=True)
class Process:
    """A running process, as far as it is seen from outside."""
    pid: int
    ppid: int
    uid: int
    name: str
    command: str
    threads: int
    bytes: int
    obstacles: tuple[Obstacle, ...]
    may_be_saved: bool


@dataclasses.dataclass(frozen=True)
class Machine:
    """What this machine permits."""
    dump: bool
    restore_tier: Optional[str]


# ---- errors ----

class Error(Exception):
    """`id` is for explain(), `help` says what would help, `errno` is that of the cause or 0."""

    def __init__(self, text: str, id: str = "", help: str = "", errno: int = 0, obstacles: Sequence[Obstacle] = ()):
        super().__init__(text)
        self.text, self.id, self.help, self.errno, self.obstacles = text, id, help, errno, tuple(obstacles)

    def __str__(self) -> str:
        lines = [self.text + (f" [{self.id}]" if self.id else ""), *(f"{o.text} [{o.id}]" for o in self.obstacles)]
        return "\n".join(lines + ([f"what would help: {self.help}"] if self.help else []))


class Refused(Error):
    """This state cannot be saved or made again."""


class Usage(Error):
    """The call itself is wrong."""


class NotPermitted(Error):
    """The kernel or the administrator does not permit it."""


class Damaged(Error):
    """The image is damaged, or not one of torpor's."""


class Failed(Error):
    """The kernel or the system failed."""


_REASONS: Mapping[int, type[Error]] = {1: Refused, 2: Usage, 3: NotPermitted, 4: Damaged, 5: Failed}


def _error(handle: Any, obstacles: Sequence[Obstacle] = ()) -> Error:
    """As an exception; the handle is not freed."""
    kind = _REASONS.get(_lib.torpor_error_reason(handle), Failed)
    return kind(_text(_lib.torpor_error_text(handle)), _text(_lib.torpor_error_id(handle)), _text(_lib.torpor_error_help(handle)),
                _lib.torpor_error_number(handle), obstacles)


def _call(function: Callable[..., int], *arguments: Any, obstacles: Optional[Callable[[], Sequence[Obstacle]]] = None) -> int:
    """Call a function whose last argument is for an error, which becomes an exception."""
    handle = c_void_p()
    r = function(*arguments, byref(handle))
    if r >= 0:
        return r
    try:
        raise _error(handle, obstacles() if obstacles else ())
    finally:
        _lib.torpor_error_free(handle)


# ---- options ----

def progress_teller(tell: Callable[[Progress], object]) -> Callable[..., object]:
    return lambda _, p: tell(Progress(_text(p[0].step), p[0].done, p[0].total, ("bytes", "attempts")[p[0].unit]))


def log_teller(tell: Callable[[str], object]) -> Callable[..., object]:
    return lambda _, level, text: tell(_text(text))


def ready_teller(tell: Callable[[int], object]) -> Callable[..., object]:
    return lambda _, program: tell(_lib.torpor_program_pid(program))


class _Options:
    """A handle, with the callbacks that it refers to. What they raise is raised when the library has returned."""

    def __init__(self, progress: Optional[Callable[[Progress], object]], log: Optional[Callable[[str], object]]):
        self.handle = _lib.torpor_options_new()
        if not self.handle:
            raise MemoryError
        self.raised: Optional[BaseException] = None
        self.kept: list[Any] = []
        if progress:
            self.set("progress", self.keep(PROGRESS(self.guard(progress_teller(progress)))), None)
        if log:
            self.set("log", self.keep(LOG(self.guard(log_teller(log)))), None)

    def keep(self, callback: Any) -> Any:
        self.kept.append(callback)
        return callback

    def guard(self, function: Callable[..., object], result: Any = None) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            try:
                if self.raised is None:
                    function(*arguments)
            except BaseException as e:
                self.raised = e
            return result if self.raised is None or result is None else -125  # ECANCELED
        return guarded

    def set(self, name: str, *values: Any) -> int:
        result: int = getattr(_lib, "torpor_options_set_" + name)(self.handle, *values)
        return result

    def __enter__(self) -> "_Options":
        return self

    def __exit__(self, *exception: object) -> None:
        _lib.torpor_options_free(self.handle)
        if self.raised is not None:
            raise self.raised


# ---- dump ----

def _obstacles(at: Callable[[int], Any]) -> tuple[Obstacle, ...]:
    found: list[Obstacle] = []
    while o := at(len(found)):
        found.append(Obstacle(_text(o[0].id), _text(o[0].text), _text(o[0].help)))
    return tuple(found)


def _dump(function: Callable[..., int], arguments: Sequence[Any], options: _Options) -> Result:
    result = POINTER(_library.Result)()
    try:
        _call(function, *arguments, options.handle, byref(result),
              obstacles=lambda: _obstacles(lambda i: _lib.torpor_result_obstacle(result, i)))
        r = result[0]
        return Result(r.pid, _text(r.comm), _text(r.path), r.tasks, r.threads, r.bytes, r.packed_bytes, r.parent_bytes, r.frozen_ns / 1e9, bool(r.while_running), _text(r.leftovers))
    finally:
        _lib.torpor_result_free(result)


def dump(pid: int, path: Optional[Path] = None, *, keep_running: bool = False, sync: bool = True, external: bool = False,
         tcp_close: bool = False, timeout: float = 30, compress: str = "auto", parent: Optional[Path] = None, pause: str = "auto",
         track: bool = False, name: Optional[str] = None,
         progress: Optional[Callable[[Progress], object]] = None, log: Optional[Callable[[str], object]] = None) -> Result:
    """Save a process and all its descendants in a file, and end them, or let them run on."""
    with _Options(progress, log) as o:
        o.set("keep_running", keep_running)
        o.set("sync", sync)
        o.set("external", external)
        o.set("tcp_close", tcp_close)
        o.set("timeout_ms", int(timeout * 1000))
        o.set("track", track)
        if o.set("pause", pause.encode()):
            raise Usage(f"pause is auto, track, clone or copy, not {pause!r}")
        if o.set("compress", compress.encode()):
            raise Usage(f"compress is zstd, zstd:1 to zstd:19, lz4, none or auto, not {compress!r}")
        if parent is not None:
            o.set("parent", os.fsencode(parent))
        if name is not None and o.set("name", os.fsencode(name)):
            raise Usage(f"{name!r} is no name of a program")
        return _dump(_lib.torpor_dump, (pid, None if path is None else os.fsencode(path)), o)


def check(pid: int, *, timeout: float = 30, log: Optional[Callable[[str], object]] = None) -> Result:
    """Could they be saved? If not, Refused is raised, with all obstacles. They stand still for a moment."""
    with _Options(None, log) as o:
        o.set("timeout_ms", int(timeout * 1000))
        return _dump(_lib.torpor_check, (pid,), o)


def squash(path: Path, output: Path, *, sync: bool = True, compress: Optional[str] = None,
           progress: Optional[Callable[[Progress], object]] = None) -> int:
    """Join an image and its parents in a new file. Returns how many files were joined."""
    with _Options(progress, None) as o:
        o.set("sync", sync)
        if compress is not None and o.set("compress", compress.encode()):
            raise Usage(f"compress is zstd, zstd:1 to zstd:19, lz4 or none, not {compress!r}")
        return _call(_lib.torpor_squash, os.fsencode(path), os.fsencode(output), o.handle)


def untrack(pid: int) -> bool:
    """Keep no more track of what a program writes (dump(track=True)). False when nobody did."""
    return _call(_lib.torpor_untrack, pid) == 1


def dump_self(path: Path) -> bool:
    """Save the calling process and all its descendants. False in the one that called, True in each that was restored."""
    return _call(_lib.torpor_dump_self, os.fsencode(path), None) == 1


# ---- restore and run ----

class Program:
    """A program that was restored or started. As a context manager, it is let go of at the end, and runs on."""

    def __init__(self, handle: c_void_p):
        self._handle: Optional[c_void_p] = handle
        self.pid: int = _lib.torpor_program_pid(handle)  # of its first process, as we see it
        self.returncode: Optional[int] = None

    def _open(self) -> c_void_p:
        if self._handle is None:
            raise ValueError("the program was let go of")
        return self._handle

    def fileno(self) -> int:
        """For select: readable when poll() has something to tell."""
        fd: int = _lib.torpor_program_fd(self._open())
        return fd

    def poll(self) -> Optional[int]:
        """The exit status, or minus the signal that ended it; None while it runs."""
        status = c_int()
        while self.returncode is None:
            r = _lib.torpor_program_poll(self._open(), byref(status))
            if r < 0:
                raise Failed(f"nobody knows any more what became of process {self.pid}")
            if r == 0:
                break
            if not os.WIFSTOPPED(status.value):
                self.returncode = os.waitstatus_to_exitcode(status.value)
        return self.returncode

    def wait(self) -> int:
        """Until it has ended."""
        status = c_int()
        if self.returncode is None:
            _call(_lib.torpor_program_wait, self._open(), byref(status))
            self.returncode = os.waitstatus_to_exitcode(status.value)
        return self.returncode

    def detach(self) -> None:
        """Let it run on without us."""
        if self._handle is not None:
            _lib.torpor_program_detach(self._handle)
        self._handle = None

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.detach()


def restore(path: Path, *, streams: Optional[Mapping[int, int]] = None, tier: str = "auto", fork_limit: Optional[int] = None,
            allow_changed: bool = False, allow_foreign: bool = False, timeout: float = 30,
            ready: Optional[Callable[[int], object]] = None,
            progress: Optional[Callable[[Progress], object]] = None, log: Optional[Callable[[str], object]] = None) -> Program:
    """Make a saved tree again. `streams` joins saved standard streams to file descriptors of ours, -1: to nothing.
    `ready` is called with the PID before it runs; what it raises calls the restore off."""
    if tier not in TIERS:
        raise Usage(f"tier is one of {', '.join(TIERS)}, not {tier!r}")
    with _Options(progress, log) as o:
        for stream, fd in (streams or {}).items():
            o.set("stream", stream, fd)
        o.set("tier", TIERS.index(tier))
        if fork_limit is not None:
            o.set("fork_limit", fork_limit)
        o.set("allow_changed", allow_changed)
        o.set("allow_foreign", allow_foreign)
        o.set("timeout_ms", int(timeout * 1000))
        if ready:
            o.set("ready", o.keep(READY(o.guard(ready_teller(ready), 0))), None)
        handle = c_void_p()
        _call(_lib.torpor_restore, os.fsencode(path), o.handle, byref(handle))
        return Program(handle)


def run(arguments: Sequence[Path], *, name: Optional[str] = None) -> Program:
    """Run a program in a user and PID namespace of its own, where its PIDs are free whenever it is restored."""
    argv = (c_char_p * (len(arguments) + 1))(*(os.fsencode(a) for a in arguments), None)
    with _Options(None, None) as o:
        if name is not None and o.set("name", os.fsencode(name)):
            raise Usage(f"{name!r} is no name of a program")
        handle = c_void_p()
        _call(_lib.torpor_run, argv, o.handle, byref(handle))
        return Program(handle)


def find(name: str) -> int:
    """The PID of the program with this name."""
    return _call(_lib.torpor_find, os.fsencode(name))


def restore_plan(path: Path) -> list[str]:
    """What a restore would do, line by line."""
    lines: list[str] = []
    _call(_lib.torpor_restore_explain, os.fsencode(path), LINE(lambda _, text: lines.append(_text(text))), None)
    return lines


# ---- images ----

_STATES = ("running", "stopped", "zombie")
_OBJECT, _ARRAY, _END, _UNSIGNED, _SIGNED, _BOOLEAN, _STRING, _DATA = range(8)


class Image:
    """An image to look at. With `salvage`, a damaged one is opened as far as it can be read; then `damage` tells."""

    def __init__(self, path: Path, *, verify: bool = False, salvage: bool = False):
        handle = c_void_p()
        _call(_lib.torpor_image_open, os.fsencode(path), 1 * verify + 2 * salvage, byref(handle))
        self._handle: Optional[c_void_p] = handle
        damage = _lib.torpor_image_damage(handle)
        self.damage: Optional[Error] = _error(damage) if damage else None

    def _open(self) -> c_void_p:
        if self._handle is None:
            raise ValueError("the image is closed")
        return self._handle

    def _fds(self, task: int) -> Iterator[FileDescriptor]:
        handle, i = self._open(), 0
        while slot := _lib.torpor_image_slot(handle, task, i):
            i += 1
            if slot[0].object >= 0:
                yield FileDescriptor(slot[0].fd, _text(_lib.torpor_image_object(handle, slot[0].object)[0].kind),
                                     _text(_lib.torpor_image_describe(handle, slot[0].object)))

    @property
    def tasks(self) -> list[Task]:
        """The processes; the first is the root."""
        found: list[Task] = []
        while t := _lib.torpor_image_task(self._open(), len(found)):
            found.append(Task(t[0].pid, t[0].ppid, _text(t[0].comm), _text(t[0].cmdline), _STATES[t[0].state], t[0].threads,
                              t[0].stored_bytes, tuple(self._fds(len(found)))))
        return found

    def data(self) -> dict[str, Any]:
        """Everything that the image says, as `torpor inspect --json` would print it."""
        stack: list[Any] = [[]]

        def visit(_: Any, item: Any) -> None:
            i = item[0]
            if i.type == _END:
                stack.pop()
                return
            value: Any = ({}, [], None, i.number, i.signed_number, bool(i.number), i.string and _text(i.string),
                          ctypes.string_at(i.data, i.size).hex() if i.data else "")[i.type]
            if i.key is None:
                stack[-1].append(value)
            else:
                stack[-1][_text(i.key)] = value
            if i.type in (_OBJECT, _ARRAY):
                stack.append(value)

        _call(_lib.torpor_image_walk, self._open(), VISIT(visit), None)
        whole: dict[str, Any] = stack[0][0]
        return whole

    def core(self, path: Path, pid: int = 0) -> int:
        """Write a task (0: the first) as a core file for a debugger. Returns its PID."""
        info = POINTER(_library.CoreInfo)()
        _call(_lib.torpor_core, self._open(), pid, os.fsencode(path), byref(info))
        written: int = info[0].pid
        _lib.torpor_core_info_free(info)
        return written

    def close(self) -> None:
        if self._handle is not None:
            _lib.torpor_image_close(self._handle)
        self._handle = None

    def __enter__(self) -> "Image":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def verify(path: Path) -> None:
    """Compare every checksum of an image; Damaged is raised where one is wrong."""
    _call(_lib.torpor_verify, os.fsencode(path))


def core(image: Path, path: Path, pid: int = 0) -> int:
    """Write a saved process as a core file for a debugger. Returns its PID."""
    with Image(image, verify=True) as opened:
        return opened.core(path, pid)


# ---- this machine ----

def machine() -> Machine:
    """What works here, tried for real."""
    handle = POINTER(_library.Machine)()
    _call(_lib.torpor_machine_try, byref(handle))
    try:
        return Machine(bool(handle[0].dump), _text(handle[0].restore_tier) or None)
    finally:
        _lib.torpor_machine_free(handle)


def processes(all: bool = False) -> list[Process]:
    """Running processes, ours or those of all users, and whether they could be saved. None is stopped."""
    handle = c_void_p()
    found: list[Process] = []
    _call(_lib.torpor_processes_list, all, byref(handle))
    try:
        while at := _lib.torpor_processes_at(handle, len(found)):
            p, i = at[0], len(found)
            obstacles = _obstacles(lambda k: _lib.torpor_processes_obstacle(handle, i, k))
            found.append(Process(p.pid, p.ppid, p.uid, _text(p.comm), _text(p.cmdline), p.threads, p.bytes, obstacles,
                                 p.state != b"Z" and not p.in_the_way))
    finally:
        _lib.torpor_processes_free(handle)
    return found


def explain(id: str) -> Optional[Explanation]:
    """What the id of an error or an obstacle means; None: there is no such id."""
    e = _lib.torpor_explain(id.encode())
    return Explanation(_text(e[0].id), _text(e[0].what), _text(e[0].why), _text(e[0].act)) if e else None


def version() -> str:
    """Of the library."""
    return _text(_lib.torpor_version())
