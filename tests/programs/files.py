# SPDX-License-Identifier: Apache-2.0
"""Files that several cases use, and files that are put back as they were."""

import os
import shutil
import subprocess

from cases import COMPILER, Failure


def made_once(path, make):
    """A file or folder that the first case which needs it makes, by make(path). Several may come first at once."""
    if not os.path.exists(path):
        fresh = f"{path}.{os.urandom(4).hex()}"
        make(fresh)
        try:
            os.rename(fresh, path)
        except OSError:
            shutil.rmtree(fresh)  # another one was quicker, and its folder is not empty
    return path


def compiled_once(path, source, *options):
    def make(fresh):
        done = subprocess.run([*COMPILER, *options, "-o", fresh, source], capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"compiling {source}: {done.stderr}")
    return made_once(path, make)


class Snapshot:
    """The files below some folders: content, time and inode, to put them back as they were.

    A second link keeps each inode alive when a program removes the file."""

    def __init__(self, context, paths):
        self.context, self.files, self.folders, self.stores = context, {}, [], []
        for path in paths:
            if os.path.isdir(path):
                for folder, _, names in os.walk(path):
                    self.folders.append(folder)
                    for name in names:
                        self.add(os.path.join(folder, name))
            elif os.path.exists(path):
                self.add(path)

    def add(self, path):
        info = os.lstat(path)
        if not os.path.isfile(path) or os.path.islink(path):
            return
        kept = self.link(path)
        with open(path, "rb") as f:
            self.files[path] = (kept, f.read(), info)

    def link(self, path):
        for near in (self.context.base, os.path.dirname(path)):
            store = os.path.join(near, f"torpor-kept-{os.getpid()}-{id(self):x}")
            try:
                os.makedirs(store, exist_ok=True)
                if store not in self.stores:
                    self.stores.append(store)
                kept = os.path.join(store, str(len(self.files)))
                os.link(path, kept)
                return kept
            except OSError as e:
                problem = e
        raise problem

    def put_back(self):
        for folder in self.folders:
            os.makedirs(folder, exist_ok=True)
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path) and path not in self.files:
                    os.unlink(path)
        for path, (kept, content, info) in self.files.items():
            if not os.path.exists(path) or os.stat(path).st_ino != info.st_ino:
                if os.path.lexists(path):
                    os.unlink(path)
                os.link(kept, path)
            with open(path, "rb") as f:
                changed = f.read() != content
            if changed:
                with open(path, "r+b") as f:
                    f.truncate(0)
                    f.write(content)
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def drop(self):
        for store in self.stores:
            shutil.rmtree(store, ignore_errors=True)
