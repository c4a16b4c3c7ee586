#!/usr/bin/env bash
# Makes the one static binary by the command that the README gives, and tries it on a root file
# system that holds nothing else: no /dev, no /etc, no library.
#
# usage: static-binary.sh        as root, with musl-gcc and the target x86_64-unknown-linux-musl
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(uname -m)-unknown-linux-musl
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
cargo build --profile dist --target "$target"
binary=target/$target/dist/rbuild

size=$(stat -c %s "$binary")
echo "$size bytes: $(file -b "$binary")"
file -b "$binary" | grep -Eq 'statically linked|static-pie linked'
[ "$size" -le 15000000 ] || { echo "larger than 15 MB" >&2; exit 1; }

root=$(mktemp -d /tmp/rbuild-empty.XXXXXX)
trap 'rm -rf "$root"' EXIT
cp "$binary" "$root/rbuild"
cp -r examples/hello "$root/hello"
mkdir "$root/proc" "$root/old"
# in_empty WORDS…: rbuild with that folder as the machine's root file system.
in_empty() {
    unshare --mount sh -ec '
        root=$1; shift
        cd "$root"; mount --bind . .; cd "$root"
        mount -t proc proc proc
        pivot_root . old
        exec /rbuild --root /store "$@"' sh "$root" "$@"
}
in_empty version
in_empty build --progress plain -t hello -o type=oci,dest=/hello.tar -o type=image /hello
[ "$(in_empty run hello)" = "Hello, world!" ]
in_empty save -o /saved.tar hello
in_empty rmi hello
in_empty load -i /saved.tar
in_empty df
in_empty prune --all --force
echo "the static binary needs nothing beside itself"
