#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# join.sh ARCHIVE OUTPUT FOLDER SCRIPT: all of the archive as one object, laid out by the linker script, in which hidden
# names are local; and that as an archive.
set -eu
mkdir -p "$3"
ld -r -T "$4" --whole-archive "$1" -o "$3/torpor.o"
objcopy --localize-hidden --strip-debug "$3/torpor.o"
rm -f "$2"
ar rcsD "$2" "$3/torpor.o"
