#!/usr/bin/env bash
# Fetches what the tests of other processors need, and installs nothing: an installed emulator
# registers itself with the machine, which the tests are to do without.
#
#   FOLDER/bin                QEMU's static user emulators, from Debian's qemu-user-static
#   FOLDER/busybox-ARCH       a static busybox for other processors, by their names in platforms
#
# A second run finds its work done and ends at once.
#
# usage: fetch-emulators.sh [FOLDER]       (default: target/test-emulators)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../target/test-emulators}
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
native=$(dpkg --print-architecture)
stamp="$codename $native $(sha256sum <"$0")"
if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "emulators: fetched already to $folder"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch ARCHITECTURE PACKAGE: unpacks a package for that architecture into $work/unpacked, with
# lists of its own: the machine's know its own architecture only.
fetch() {
    local lists=$work/$1 file
    mkdir -p "$lists"/{lists/partial,cache/archives/partial}
    : >"$lists/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $codename main" >"$lists/sources.list"
    local options=(
        -o "APT::Architecture=$1" -o "APT::Architectures::=$1" -o APT::Sandbox::User=root
        -o "Dir::State=$lists" -o "Dir::State::lists=$lists/lists" -o "Dir::State::status=$lists/status"
        -o "Dir::Cache=$lists/cache" -o "Dir::Etc::sourcelist=$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null
    )
    [ -e "$lists/ready" ] || apt-get "${options[@]}" update -qq
    : >"$lists/ready"
    (cd "$lists" && apt-get "${options[@]}" download -qq "$2")
    file=$(ls "$lists/$2"_*.deb)
    rm -rf "$work/unpacked"
    dpkg -x "$file" "$work/unpacked"
}

echo "emulators: qemu-user-static"
fetch "$native" qemu-user-static
for name in aarch64 arm i386 ppc64le riscv64 s390x x86_64; do
    # The name that older and newer packages have.
    for found in "$work/unpacked/usr/bin/qemu-$name-static" "$work/unpacked/usr/bin/qemu-$name"; do
        [ ! -f "$found" ] || [ -L "$found" ] || install -m 755 "$found" "$folder/bin/qemu-$name-static"
    done
done
while read -r debian name; do
    [ "$debian" != "$native" ] || continue
    echo "emulators: busybox for $name"
    fetch "$debian" busybox-static
    install -m 755 "$work/unpacked"/*bin/busybox "$folder/busybox-$name" 2>/dev/null ||
        install -m 755 "$work/unpacked/usr/bin/busybox" "$folder/busybox-$name"
done <<'ARCHITECTURES'
arm64 arm64
armhf arm
i386 386
ppc64el ppc64le
s390x s390x
ARCHITECTURES
chmod -R a+rX "$folder"
echo "$stamp" >"$folder/stamp"
echo "emulators: fetched to $folder"
