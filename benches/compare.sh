#!/usr/bin/env bash
# Builds the same things with rbuild and with Debian's buildah, in turn, on stores in memory, and
# prints wall and CPU seconds (of all processes) and the ratio of each pair's medians.
#
# usage: benches/compare.sh [RUNS]       as root; wants buildah, runc and busybox-static
#        RBUILD=path/to/rbuild           the binary (default: target/release/rbuild)
#
# Figures are ratios of one run on one machine: other load moves the seconds of both alike.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
rbuild=$(readlink -f "${RBUILD:-target/release/rbuild}")
for program in "$rbuild" buildah runc busybox; do
    command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 1; }
done

work=$(mktemp -d /tmp/rbuild-bench.XXXXXX)
mount -t tmpfs tmpfs "$work"
trap 'umount -l "$work"; rmdir "$work"' EXIT

# A base image of one static program, as a context file: both tools start from scratch.
make_context() { # NAME
    mkdir -p "$work/$1/bin"
    cp "$(command -v busybox)" "$work/$1/bin/busybox"
    ln -s busybox "$work/$1/bin/sh"
    printf 'bin/\n!bin\n' >/dev/null
}

make_context runs
{ echo 'FROM scratch'; echo 'COPY bin /bin'; for i in $(seq 30); do echo "RUN echo $i > /file$i"; done; } >"$work/runs/Dockerfile"

make_context small
for i in $(seq 100); do
    mkdir -p "$work/small/files/$i"
    for j in $(seq 100); do printf 'file %s of %s\n' "$j" "$i" >"$work/small/files/$i/$j"; done
done
printf 'FROM scratch\nCOPY files /files\n' >"$work/small/Dockerfile"

make_context large
head -c 268435456 /dev/urandom >"$work/large/file"
printf 'FROM scratch\nCOPY file /file\n' >"$work/large/Dockerfile"

# timed COMMAND…: wall and CPU seconds of the command and all it started.
timed() {
    local out
    out=$({ TIMEFORMAT='%R %U %S'; time "$@" >"$work/log" 2>&1; } 2>&1) || { cat "$work/log" >&2; exit 1; }
    awk '{ printf "%s %.3f\n", $1, $2 + $3 }' <<<"$out"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

with_rbuild() { RBUILD_ROOT="$work/rbuild" "$rbuild" --progress plain -t bench "$work/$1"; }
with_buildah() {
    buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay build \
        --runtime runc --ulimit nofile=16384:16384 --ulimit nproc=16384:16384 --layers -t bench "$work/$1"
}
empty_rbuild() { rm -rf "$work/rbuild"; }
empty_buildah() {
    buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay rm -a >/dev/null 2>&1 || true
    buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay rmi -a -f >/dev/null 2>&1 || true
}

printf '%-34s %10s %10s %8s   %10s %10s %8s\n' "" "rbuild s" "buildah s" "ratio" "rbuild cpu" "buildah cpu" "ratio"
row() { # TITLE CONTEXT first|again
    : >"$work/a"; : >"$work/b"
    for _ in $(seq "$runs"); do
        if [ "$3" = first ]; then empty_rbuild; empty_buildah; fi
        timed with_rbuild "$2" >>"$work/a"
        timed with_buildah "$2" >>"$work/b"
    done
    local aw bw ac bc
    aw=$(cut -d' ' -f1 "$work/a" | median); bw=$(cut -d' ' -f1 "$work/b" | median)
    ac=$(cut -d' ' -f2 "$work/a" | median); bc=$(cut -d' ' -f2 "$work/b" | median)
    awk -v t="$1" -v aw="$aw" -v bw="$bw" -v ac="$ac" -v bc="$bc" 'BEGIN {
        printf "%-34s %10.2f %10.2f %8.1f   %10.2f %10.2f %8.1f\n", t, aw, bw, bw / (aw > 0 ? aw : 0.001), ac, bc, bc / (ac > 0 ? ac : 0.001) }'
}
row "30 RUN steps"                runs  first
row "30 RUN steps, unchanged"     runs  again
row "COPY of 10,000 small files"  small first
row "... unchanged"               small again
row "COPY of a file of 256 MiB"   large first
row "... unchanged"               large again
