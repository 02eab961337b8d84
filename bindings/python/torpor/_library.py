# SPDX-License-Identifier: Apache-2.0
"""torpor/torpor.h for ctypes: the structs, and what the functions take and return."""

import ctypes
import os
from ctypes import CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_int, c_int64, c_long, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any


class Explanation(Structure):
    _c_name_ = "torpor_explanation"
    _fields_ = [("id", c_char_p), ("what", c_char_p), ("why", c_char_p), ("act", c_char_p)]


class Progress(Structure):
    _c_name_ = "torpor_progress"
    _fields_ = [("step", c_char_p), ("done", c_uint64), ("total", c_uint64), ("unit", c_int)]


class Obstacle(Structure):
    _c_name_ = "torpor_obstacle"
    _fields_ = [("id", c_char_p), ("text", c_char_p), ("help", c_char_p)]


class Result(Structure):
    _c_name_ = "torpor_result"
    _fields_ = [("pid", c_int), ("comm", c_char_p), ("path", c_char_p), ("tasks", c_size_t), ("threads", c_size_t),
                ("bytes", c_uint64), ("frozen_ns", c_uint64), ("leftovers", c_char_p), ("obstacles", c_size_t),
                ("packed_bytes", c_uint64), ("while_running", c_int), ("parent_bytes", c_uint64)]


class Item(Structure):
    _c_name_ = "torpor_item"
    _fields_ = [("type", c_int), ("key", c_char_p), ("simple", c_int), ("number", c_uint64), ("signed_number", c_int64),
                ("string", c_char_p), ("data", c_void_p), ("size", c_size_t)]


class Task(Structure):
    _c_name_ = "torpor_task"
    _fields_ = [("pid", c_int), ("ppid", c_int), ("pgid", c_int), ("sid", c_int), ("state", c_int), ("exit_status", c_int),
                ("stop_signal", c_int), ("comm", c_char_p), ("cmdline", c_char_p), ("cwd", c_char_p), ("threads", c_size_t),
                ("slots", c_size_t), ("space", c_long), ("stored_bytes", c_uint64)]


class Slot(Structure):
    _c_name_ = "torpor_slot"
    _fields_ = [("fd", c_int), ("object", c_long), ("cloexec", c_int)]


class Object(Structure):
    _c_name_ = "torpor_object"
    _fields_ = [("kind", c_char_p), ("holders", c_size_t), ("state", c_void_p), ("state_size", c_size_t)]


class CoreInfo(Structure):
    _c_name_ = "torpor_core_info"
    _fields_ = [("pid", c_int), ("threads", c_size_t), ("stored_bytes", c_uint64), ("memory_bytes", c_uint64)]


class Machine(Structure):
    _c_name_ = "torpor_machine"
    _fields_ = [("kernel", c_char_p), ("arch", c_char_p), ("uid", c_uint), ("capability", c_char_p), ("probes", c_size_t),
                ("tiers", c_size_t), ("dump", c_int), ("restore_tier", c_char_p)]


class Process(Structure):
    _c_name_ = "torpor_process"
    _fields_ = [("pid", c_int), ("ppid", c_int), ("uid", c_uint), ("state", c_char), ("comm", c_char_p), ("cmdline", c_char_p),
                ("threads", c_size_t), ("bytes", c_uint64), ("obstacles", c_size_t), ("in_the_way", c_int)]


STRUCTS = (Explanation, Progress, Obstacle, Result, Item, Task, Slot, Object, CoreInfo, Machine, Process)

READY = CFUNCTYPE(c_int, c_void_p, c_void_p)
LOG = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
PROGRESS = CFUNCTYPE(None, c_void_p, POINTER(Progress))
LINE = CFUNCTYPE(None, c_void_p, c_char_p)
VISIT = CFUNCTYPE(None, c_void_p, POINTER(Item))

_ERROR = POINTER(c_void_p)

# name: (result, arguments)
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "torpor_error_reason": (c_int, (c_void_p,)),
    "torpor_error_number": (c_int, (c_void_p,)),
    "torpor_error_text": (c_char_p, (c_void_p,)),
    "torpor_error_help": (c_char_p, (c_void_p,)),
    "torpor_error_id": (c_char_p, (c_void_p,)),
    "torpor_error_free": (None, (c_void_p,)),
    "torpor_explain": (POINTER(Explanation), (c_char_p,)),
    "torpor_explanation": (POINTER(Explanation), (c_size_t,)),
    "torpor_version": (c_char_p, ()),
    "torpor_options_new": (c_void_p, ()),
    "torpor_options_free": (None, (c_void_p,)),
    "torpor_options_set_keep_running": (None, (c_void_p, c_int)),
    "torpor_options_set_sync": (None, (c_void_p, c_int)),
    "torpor_options_set_external": (None, (c_void_p, c_int)),
    "torpor_options_set_tcp_close": (None, (c_void_p, c_int)),
    "torpor_options_set_timeout_ms": (None, (c_void_p, c_uint)),
    "torpor_options_set_compress": (c_int, (c_void_p, c_char_p)),
    "torpor_options_set_parent": (c_int, (c_void_p, c_char_p)),
    "torpor_options_set_pause": (c_int, (c_void_p, c_char_p)),
    "torpor_options_set_track": (None, (c_void_p, c_int)),
    "torpor_options_set_name": (c_int, (c_void_p, c_char_p)),
    "torpor_options_set_stream": (None, (c_void_p, c_int, c_int)),
    "torpor_options_set_tier": (None, (c_void_p, c_int)),
    "torpor_options_set_fork_limit": (None, (c_void_p, c_uint64)),
    "torpor_options_set_pid_wait_ms": (None, (c_void_p, c_uint)),
    "torpor_options_set_allow_changed": (None, (c_void_p, c_int)),
    "torpor_options_set_allow_foreign": (None, (c_void_p, c_int)),
    "torpor_options_set_ready": (None, (c_void_p, READY, c_void_p)),
    "torpor_options_set_log": (None, (c_void_p, LOG, c_void_p)),
    "torpor_options_set_progress": (None, (c_void_p, PROGRESS, c_void_p)),
    "torpor_dump": (c_int, (c_int, c_char_p, c_void_p, POINTER(POINTER(Result)), _ERROR)),
    "torpor_check": (c_int, (c_int, c_void_p, POINTER(POINTER(Result)), _ERROR)),
    "torpor_result_obstacle": (POINTER(Obstacle), (POINTER(Result), c_size_t)),
    "torpor_result_free": (None, (POINTER(Result),)),
    "torpor_squash": (c_int, (c_char_p, c_char_p, c_void_p, _ERROR)),
    "torpor_untrack": (c_int, (c_int, _ERROR)),
    "torpor_dump_self": (c_int, (c_char_p, c_void_p, _ERROR)),
    "torpor_restore": (c_int, (c_char_p, c_void_p, POINTER(c_void_p), _ERROR)),
    "torpor_run": (c_int, (POINTER(c_char_p), c_void_p, POINTER(c_void_p), _ERROR)),
    "torpor_program_pid": (c_int, (c_void_p,)),
    "torpor_program_poll": (c_int, (c_void_p, POINTER(c_int))),
    "torpor_program_fd": (c_int, (c_void_p,)),
    "torpor_program_wait": (c_int, (c_void_p, POINTER(c_int), _ERROR)),
    "torpor_program_detach": (None, (c_void_p,)),
    "torpor_find": (c_int, (c_char_p, _ERROR)),
    "torpor_restore_explain": (c_int, (c_char_p, LINE, c_void_p, _ERROR)),
    "torpor_image_open": (c_int, (c_char_p, c_uint, POINTER(c_void_p), _ERROR)),
    "torpor_image_close": (None, (c_void_p,)),
    "torpor_image_damage": (c_void_p, (c_void_p,)),
    "torpor_verify": (c_int, (c_char_p, _ERROR)),
    "torpor_image_task": (POINTER(Task), (c_void_p, c_size_t)),
    "torpor_image_slot": (POINTER(Slot), (c_void_p, c_size_t, c_size_t)),
    "torpor_image_object": (POINTER(Object), (c_void_p, c_size_t)),
    "torpor_image_describe": (c_char_p, (c_void_p, c_size_t)),
    "torpor_image_walk": (c_int, (c_void_p, VISIT, c_void_p, _ERROR)),
    "torpor_core": (c_int, (c_void_p, c_int, c_char_p, POINTER(POINTER(CoreInfo)), _ERROR)),
    "torpor_core_info_free": (None, (POINTER(CoreInfo),)),
    "torpor_machine_try": (c_int, (POINTER(POINTER(Machine)), _ERROR)),
    "torpor_machine_free": (None, (POINTER(Machine),)),
    "torpor_processes_list": (c_int, (c_int, POINTER(c_void_p), _ERROR)),
    "torpor_processes_at": (POINTER(Process), (c_void_p, c_size_t)),
    "torpor_processes_obstacle": (POINTER(Obstacle), (c_void_p, c_size_t, c_size_t)),
    "torpor_processes_free": (None, (c_void_p,)),
}

NAME = "libtorpor.so.0"


def _open() -> ctypes.CDLL:
    """$TORPOR_LIBRARY; or in a source tree what was built there; or the one that is installed."""
    here = os.path.dirname(os.path.realpath(__file__))
    built = os.path.join(here, "..", "..", "..", "build", "src", NAME)
    chosen = os.environ.get("TORPOR_LIBRARY")
    path = chosen or (built if os.path.exists(built) else NAME)
    try:
        return ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"{NAME} is not found; install it, or set TORPOR_LIBRARY to its path: {e}") from e


def load() -> ctypes.CDLL:
    library = _open()
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
