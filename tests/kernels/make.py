#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Make the root file system of a guest: torpor, the tests and what they run, all of it from this machine.

    make.py TORPOR KERNEL ARCHIVE

KERNEL is a folder with the unpacked packages of the kernel and of kmod. The guest has no compiler: the C programs of
the tests are compiled here.
"""

import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(TESTS, "programs"))
sys.path.insert(0, HERE)
from cases import ENVIRONMENT_PATH  # noqa: E402
import selfcheck  # noqa: E402
from archive import Archive  # noqa: E402

PROGRAMS = """sh dash bash mount umount ip setcap setpriv prlimit unshare uname sleep cat mkdir ln rm ls cp mv touch true false
env id head tail tr sort wc grep sed tee seq date chmod mkfifo dd timeout setsid nice python3""".split()
LIBRARIES = ["/lib/x86_64-linux-gnu/libgcc_s.so.1"]  # glibc loads it when a thread is cancelled
MODULES = re.compile(r"modules\.(order|builtin)|kernel/(net/(ipv4|ipv6|unix|netlink|packet|mptcp|vmw_vsock)/|fs/overlayfs/)")
ACCOUNTS = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\ntorpor-test:x:990:990::/home/torpor-test:/bin/sh\n",
    "etc/group": "root:x:0:\ntty:x:5:\ntorpor-test:x:990:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}


def compile_all(folder):
    """The C programs of the tests, each under the path of its source."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for suite in ("kinds", "state"):
        selfcheck.build(os.path.join(TESTS, suite), os.path.join(folder, suite))
    for *parts, source in (["faults/steady.c"], ["faults/ticking.c"], ["faults/supervised.c", "faults/nth.c"], ["programs/targets/without.c"]):
        made = os.path.join(folder, source[:-2])
        os.makedirs(os.path.dirname(made), exist_ok=True)
        subprocess.run(["cc", "-O2", "-std=gnu17", "-D_GNU_SOURCE", "-pthread", "-o", made,
                        *(os.path.join(TESTS, part) for part in (*parts, source))], check=True)


def add_system(archive):
    for folder in ("bin", "sbin", "lib", "lib64"):
        archive.link(folder, "usr/" + folder)
    for folder in ("proc", "sys", "dev", "tmp", "var/tmp", "root", "etc/default"):
        archive.folder(folder)
    archive.device("dev/console", 5, 1)
    archive.folder("home/torpor-test", 0o777)
    for name, text in ACCOUNTS.items():
        archive.write(name, text)
    for program in PROGRAMS:
        path = shutil.which(program, path=ENVIRONMENT_PATH) or sys.exit(f"make.py: {program} is not installed")
        archive.program(os.path.realpath(path), f"/usr/bin/{program}")
    for library in LIBRARIES:
        archive.copy(library)
    archive.copy("/usr/lib/locale/C.utf8")


def add_python(archive):
    folder = os.path.dirname(os.__file__)
    archive.copy(folder)
    for name in os.listdir(os.path.join(folder, "lib-dynload")):
        archive.program(os.path.join(folder, "lib-dynload", name))


def add_kernel(archive, kernel):
    """Its modules, and what loads them when they are needed."""
    folder = os.path.join(kernel, "lib/modules")
    version, = os.listdir(folder)
    os.environ["LD_LIBRARY_PATH"] = os.path.join(kernel, "lib/x86_64-linux-gnu")
    kmod = os.path.join(kernel, "bin/kmod")
    for path in (os.path.join(top, name) for top, _, names in os.walk(folder) for name in names):
        if not MODULES.search(path):
            os.unlink(path)  # depmod is not to list what the guest has not
    subprocess.run(["depmod", "-b", kernel, version], executable=kmod, check=True)
    archive.copy(folder, "/usr/lib/modules")
    archive.program(kmod, "/usr/sbin/modprobe")
    del os.environ["LD_LIBRARY_PATH"]


def add_tests(archive, torpor, built):
    archive.program(torpor, "/test/build/torpor")
    for suite in ("programs", "kinds", "state", "faults"):
        archive.copy(os.path.join(TESTS, suite), f"/test/tests/{suite}")
        if os.path.isdir(os.path.join(built, suite)):
            archive.copy(os.path.join(built, suite), f"/built/tests/{suite}")
    archive.copy(os.path.join(HERE, "init"), "/init")
    archive.copy(os.path.join(HERE, "suites"), "/test/suites")
    for name in ("cc", "ar"):
        archive.copy(os.path.join(HERE, "cc"), f"/test/bin/{name}")


def main(torpor, kernel, path):
    built = path + ".built"
    compile_all(built)
    archive = Archive(path)
    add_system(archive)
    add_python(archive)
    add_kernel(archive, kernel)
    add_tests(archive, torpor, built)
    archive.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
