#!/usr/bin/env bash
# Builds the same things with rbuild, Debian's buildah and Debian's docker (a daemon of its own,
# with BuildKit), in turn, stores and contexts in memory. Prints the medians of wall seconds, CPU
# seconds of all processes (daemons and containers too) and peak memory (anonymous pages of all
# processes together), and how many times more the others take.
#
# usage: benches/compare.sh [RUNS]    as root; wants buildah, docker.io, runc and busybox-static,
#                                     and cgroups in which groups can be made
#        RBUILD=path/to/rbuild        the binary (default: target/release/rbuild)
#        TOOLS="rbuild buildah"       only these
#
# Figures are ratios of one run on one machine: other load moves the seconds of all alike.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-5}
read -ra tools <<<"${TOOLS:-rbuild buildah docker}"
rbuild=$(readlink -f "${RBUILD:-target/release/rbuild}")
docker=/usr/bin/docker
for program in "$rbuild" busybox runc; do
    command -v "$program" >/dev/null || { echo "missing: $program" >&2; exit 1; }
done

. benches/cpu_time.sh
groups=$cgroups/rbuild-bench
for tool in "${tools[@]}"; do mkdir -p "$groups/$tool/run"; done

work=$(mktemp -d /tmp/rbuild-bench.XXXXXX)
mount -t tmpfs tmpfs "$work"
cleanup() {
    [ -s "$work/docker.pid" ] && kill "$(cat "$work/docker.pid")" && sleep 2
    find "$groups" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
    rmdir "$groups" 2>/dev/null || true
    umount -l "$work"
    rmdir "$work"
}
trap cleanup EXIT

# A base of one static program, as files of the context: all tools start from scratch.
make_context() { # NAME
    mkdir -p "$work/$1/bin"
    cp "$(command -v busybox)" "$work/$1/bin/busybox"
    ln -s busybox "$work/$1/bin/sh"
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

# Every step has the host's network: private ones cost the others most of their time.
build_rbuild() { RBUILD_ROOT="$work/rbuild" "$rbuild" --progress plain --network host -t bench "$work/$1"; }
build_buildah() {
    buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay build \
        --runtime runc --ulimit nofile=16384:16384 --ulimit nproc=16384:16384 --network host \
        --layers -t bench "$work/$1"
}
build_docker() { DOCKER_BUILDKIT=1 DOCKER_HOST="unix://$work/docker.sock" "$docker" build --network host -t bench "$work/$1"; }
empty_rbuild() { rm -rf "$work/rbuild"; }
empty_buildah() {
    local store=(buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay)
    "${store[@]}" rm -a >/dev/null 2>&1 || true
    "${store[@]}" rmi -a -f >/dev/null 2>&1 || true
}
empty_docker() { DOCKER_HOST="unix://$work/docker.sock" "$docker" system prune -af >/dev/null 2>&1; }
version_rbuild() { "$rbuild" --version; }
version_buildah() { buildah --version; }
version_docker() { DOCKER_HOST="unix://$work/docker.sock" "$docker" version --format 'docker {{.Server.Version}}'; }

for tool in "${tools[@]}"; do
    [ "$tool" = docker ] || continue
    (
        echo "$BASHPID" >"$groups/docker/run/cgroup.procs"
        exec dockerd --data-root "$work/docker" --exec-root "$work/docker-exec" --pidfile "$work/docker.pid" \
            --host "unix://$work/docker.sock" --bridge none --iptables=false --storage-driver overlay2 \
            --cgroup-parent /rbuild-bench/docker >"$work/docker.log" 2>&1
    ) &
    for _ in $(seq 100); do [ -S "$work/docker.sock" ] && version_docker >/dev/null 2>&1 && break; sleep 0.1; done
    version_docker >/dev/null || { tail -5 "$work/docker.log" >&2; exit 1; }
done

# in_group TOOL CONTEXT: builds with every process of it in the tool's group. Leaves microseconds of
# wall and CPU time in $work/spent; to enter the group takes the kernel longer than some builds.
in_group() {
    (
        echo "$BASHPID" >"$groups/$1/run/cgroup.procs"
        cpu_microseconds "$groups/$1"; cpu=$now; begun=${EPOCHREALTIME/[.,]/}
        "build_$1" "$2" >"$work/log" 2>&1
        ended=${EPOCHREALTIME/[.,]/}
        cpu_microseconds "$groups/$1"
        echo "$((ended - begun)) $((now - cpu))" >"$work/spent"
    ) || { tail -20 "$work/log" >&2; exit 1; }
}
# timed TOOL CONTEXT: wall seconds, CPU seconds.
timed() {
    in_group "$1" "$2"
    awk '{ printf "%.4f %.4f\n", $1 / 1e6, $2 / 1e6 }' "$work/spent"
}
# peak TOOL CONTEXT: the most anonymous memory of all processes of the group, in MiB.
peak() {
    in_group "$1" "$2" &
    local build=$! most=0 now
    while kill -0 "$build" 2>/dev/null; do
        now=$(find "$groups/$1" -name cgroup.procs -exec cat {} + 2>/dev/null |
            sed 's|.*|/proc/&/status|' | xargs -r awk '/^RssAnon/ { sum += $2 } END { print sum + 0 }' 2>/dev/null || true)
        [ "${now:-0}" -gt "$most" ] && most=$now
        sleep 0.01
    done
    wait "$build"
    echo $((most / 1024))
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for tool in "${tools[@]}"; do "version_$tool"; done
printf '\n| build | tool | wall s | times | CPU s | times | peak MiB |\n|---|---|---|---|---|---|---|\n'
row() { # TITLE CONTEXT first|again
    local tool
    for tool in "${tools[@]}"; do : >"$work/$tool.times"; done
    for _ in $(seq "$runs"); do
        for tool in "${tools[@]}"; do
            if [ "$3" = first ]; then "empty_$tool"; fi
            timed "$tool" "$2" >>"$work/$tool.times"
        done
    done
    local wall cpu first_wall= first_cpu=
    for tool in "${tools[@]}"; do
        if [ "$3" = first ]; then "empty_$tool"; fi
        wall=$(cut -d' ' -f1 "$work/$tool.times" | median); cpu=$(cut -d' ' -f2 "$work/$tool.times" | median)
        : "${first_wall:=$wall}" "${first_cpu:=$cpu}"
        awk -v title="$1" -v tool="$tool" -v w="$wall" -v c="$cpu" -v fw="$first_wall" -v fc="$first_cpu" -v m="$(peak "$tool" "$2")" 'BEGIN {
            printf "| %s | %s | %.3f | %.1f | %.3f | %.1f | %d |\n", title, tool, w, w / (fw > 0 ? fw : 0.001), c, c / (fc > 0 ? fc : 0.001), m }'
    done
}
row "30 RUN steps"               runs  first
row "30 RUN steps, unchanged"    runs  again
row "COPY of 10,000 small files" small first
row "the same, unchanged"        small again
row "COPY of one 256-MiB file"   large first
row "the same, unchanged"        large again
