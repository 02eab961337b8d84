# SPDX-License-Identifier: Apache-2.0
"""The root file system of a guest, as an initramfs: files of this machine under names of their own (cpio, "newc").

The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel."""

import os
import re
import stat
import subprocess


# Large parts of Python that no test needs.
LEFT_OUT = ("__pycache__", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter", "config-")


class Archive:
    """Everything belongs to root. Folders above a file, and the libraries of a program, come with it."""

    def __init__(self, path):
        self.file, self.names, self.number = open(path, "wb"), set(), 0

    def entry(self, name, mode, content=b"", device=(0, 0)):
        name = name.strip("/")
        if not name or name in self.names:
            return
        if name != "TRAILER!!!":
            self.entry(os.path.dirname(name), stat.S_IFDIR | 0o755)
        self.names.add(name)
        self.number += 1
        fields = (self.number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        for part in (head, content):
            self.file.write(part + bytes(-len(part) % 4))

    def folder(self, name, mode=0o755):
        self.entry(name, stat.S_IFDIR | mode)

    def write(self, name, text, mode=0o644):
        self.entry(name, stat.S_IFREG | mode, text.encode())

    def link(self, name, target):
        self.entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name, major, minor):
        self.entry(name, stat.S_IFCHR | 0o666, device=(major, minor))

    def copy(self, path, name=None):
        """A file, what a link leads to, or a folder with all below it; without a name, where it lies here."""
        name = name or os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if os.path.isdir(path):
            for below in sorted(os.listdir(path)):
                if not below.startswith(LEFT_OUT):
                    self.copy(os.path.join(path, below), os.path.join(name, below))
        else:
            with open(path, "rb") as f:
                self.entry(name, stat.S_IFREG | stat.S_IMODE(os.stat(path).st_mode), f.read())

    def program(self, path, name=None):
        """An executable or a library, and the libraries that it needs, which go where the loader looks."""
        self.copy(path, name)
        needed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", needed):
            if library.startswith("/lib64/"):
                self.copy(library)  # the loader itself
            else:
                self.copy(library, "/usr/lib/x86_64-linux-gnu/" + os.path.basename(library))

    def close(self):
        self.entry("TRAILER!!!", 0)
        self.file.close()
