#!/bin/sh
# Makes hello-amd64 and hello-arm64 from their sources, into the folder given (default: here).
# The same bytes come out each time. Needs binutils for both architectures (Debian:
# binutils-x86-64-linux-gnu and binutils-aarch64-linux-gnu).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${1:-$here}
make() {
    "$2-as" -o "$to/hello-$1.o" "$here/hello-$1.S"
    "$2-ld" -static -n -s --build-id=none -z noexecstack -o "$to/hello-$1" "$to/hello-$1.o"
    rm "$to/hello-$1.o"
}
make amd64 x86_64-linux-gnu
make arm64 aarch64-linux-gnu
