#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What libtorpor exports, and that its header is enough for C and C++.

    library.py SHARED STATIC HEADER MAP CC...

Both libraries export what the header declares and nothing else; the header compiles alone as C99 and as C++ with all
warnings; programs link with either library; and every function has a manual page."""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
USE = """
#include <torpor/torpor.h>
int main(void)
{
	struct torpor_error *error = NULL;
	struct torpor_image *image;
	int r = torpor_image_open("/dev/null", 0, &image, &error);
	int fine = r == -TORPOR_IMAGE && torpor_error_reason(error) == TORPOR_IMAGE && torpor_error_id(error)[0] == 'E';

	torpor_error_free(error);
	return fine ? 0 : 1;
}
"""
problems = []


def complain(condition, text):
    if condition:
        problems.append(text)


def declared(header):
    with open(header, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    return set(re.findall(r"^[a-z].*?\b(torpor_[a-z_]+)\(", text, re.M))


def exported(library, *options):
    out = subprocess.run(["nm", "--defined-only", *options, library], check=True, capture_output=True, text=True).stdout
    return {m[2]: m[1] for m in re.finditer(r"^[0-9a-f]+ ([A-Z]) (\S+)$", out, re.M)}


def check_names(shared, static, names, versions):
    found = {n: t for n, t in exported(shared, "-D").items() if t != "A"}
    for name in found:
        complain("@@" not in name, f"{shared} exports {name} without a version")
    plain = {n.split("@@")[0] for n in found}
    complain(plain != names, f"{shared} exports {sorted(plain ^ names)}, or lacks it")
    complain(set(exported(static, "-g")) != names, f"{static}: {sorted(set(exported(static, '-g')) ^ names)}")
    with open(versions, encoding="utf-8") as f:
        complain(set(re.findall(r"^\t(torpor_[a-z_]+);", f.read(), re.M)) != names, f"{versions} and the header differ")


def build(folder, name, *command):
    r = subprocess.run([*command, "-o", os.path.join(folder, name)], capture_output=True, text=True)
    complain(r.returncode, f"{' '.join(command)}: {r.stderr.strip()}")
    return os.path.join(folder, name)


def check_programs(folder, shared, static, header, cc):
    include = "-I" + os.path.join(os.path.dirname(header), "..")
    source = os.path.join(folder, "use.c")
    with open(source, "w") as f:
        f.write(USE)
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", include]
    build(folder, "c.o", *cc, "-std=c99", *strict, "-c", source)
    compiler = shutil.which("c++")
    if compiler:
        build(folder, "cxx.o", compiler, "-std=c++11", "-x", "c++", *strict, "-c", source)
    one = build(folder, "shared", *cc, include, source, "-L" + os.path.dirname(shared), "-l:" + os.path.basename(shared))
    two = build(folder, "static", *cc, include, source, static, "-lprotobuf-c", "-lzstd", "-llz4", "-pthread")
    for program in (one, two):
        if os.path.exists(program):
            r = subprocess.run([program], env={"LD_LIBRARY_PATH": os.path.dirname(shared)})
            complain(r.returncode, f"{program} ends with status {r.returncode}")


def check_pages(names):
    pages = "".join(open(p, encoding="utf-8").read() for p in glob.glob(os.path.join(TOP, "doc", "man", "*.3")))
    documented = set(re.findall(r"^\.Nm (torpor_[a-z_]+)", pages, re.M))
    complain(names - documented, f"no page of section 3 is about {sorted(names - documented)}")
    complain(documented - names - {"torpor"}, f"pages are about {sorted(documented - names)}, which there is not")


def main():
    shared, static, header, versions, *cc = sys.argv[1:]
    names = declared(header)
    complain(len(names) < 50, "so few functions cannot be all")
    check_names(shared, static, names, versions)
    with tempfile.TemporaryDirectory() as folder:
        check_programs(folder, shared, static, header, cc)
    check_pages(names)
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(names)} functions")


main()
