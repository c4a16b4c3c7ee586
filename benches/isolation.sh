#!/usr/bin/env bash
# What keeping owners without ids for them costs, and what working on a copy of the files costs:
# builds the same steps on the rungs `userns` and `userns-single`, and as root on an overlay and on
# a copy, in turn, stores in memory. Prints the medians of wall and CPU seconds of the whole command
# and how many times more than the first of each pair the second takes.
#
# usage: benches/isolation.sh WITH WITHOUT [RUNS]    as root; WITH is a user with subordinate ids,
#                                                    WITHOUT one that has none
#        RBUILD=path/to/rbuild                       the binary (default: target/release/rbuild)
#        BASE=image                                  what to build on (default: debian:trixie)
#        APT_CONF=file                               settings for apt in the steps
#
# Packages are downloaded once per store, before anything is timed.
set -euo pipefail
cd "$(dirname "$0")/.."

with=$1 without=$2 runs=${3:-5}
base=${BASE:-debian:trixie}
rbuild=$(readlink -f "${RBUILD:-target/release/rbuild}")
for user in "$with" "$without"; do id "$user" >/dev/null; done

. benches/cpu_time.sh
group=$cgroups/rbuild-bench-isolation
mkdir -p "$group"

work=$(mktemp -d /tmp/rbuild-bench.XXXXXX)
mount -t tmpfs tmpfs "$work"
cleanup() {
    umount -l "$work"
    rmdir "$work" "$group" 2>/dev/null || true
}
trap cleanup EXIT
chmod 755 "$work"
install -m 755 "$rbuild" "$work/rbuild"

mkdir "$work/base" "$work/apt" "$work/status"
cp "${APT_CONF:-/dev/null}" "$work/base/apt.conf"
packages="cron dbus sudo nginx-light openssh-client man-db postfix git"
cat >"$work/base/Dockerfile" <<END
FROM $base AS bare
COPY apt.conf /etc/apt/apt.conf.d/99bench
RUN rm -f /etc/apt/apt.conf.d/docker-clean && apt-get update
FROM bare AS downloaded
RUN apt-get install -y --no-install-recommends --download-only $packages
FROM bare
COPY --from=downloaded /var/cache/apt/archives /var/cache/apt/archives
END
cat >"$work/apt/Dockerfile" <<END
FROM base
ARG ROUND
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
END
cat >"$work/status/Dockerfile" <<'END'
FROM base AS files
RUN apt-get install -y --no-install-recommends git
WORKDIR /files
RUN git init -q && for d in $(seq 100); do mkdir $d; for f in $(seq 50); do echo $f >$d/$f; done; done \
 && git add . && git -c user.name=a -c user.email=b commit -qm files
FROM files
ARG ROUND
RUN for i in $(seq 100); do git status >/dev/null; done
END
sed 's/^RUN for i.*/RUN true/' "$work/status/Dockerfile" >"$work/status/warm"

# What is compared: who builds, and how.
user_of() { case $1 in userns) echo "$with";; userns-single) echo "$without";; *) echo root;; esac; }
flags_of() {
    case $1 in
        userns | userns-single) echo "--isolation $1";;
        overlay | copy) echo "--isolation root --storage-driver $1";;
    esac
}
# run WAY ARGUMENTS…: rbuild that way.
run() {
    local way=$1
    shift
    # shellcheck disable=SC2046
    setpriv --reuid="$(user_of "$way")" --regid="$(user_of "$way")" --init-groups -- \
        env HOME="$work/$way" RBUILD_ROOT="$work/$way/store" \
        "$work/rbuild" build $(flags_of "$way") --progress plain "$@" >"$work/log" 2>&1 ||
        { tail -20 "$work/log" >&2; exit 1; }
}
# timed WAY CONTEXT: adds wall and CPU seconds to the way's list.
timed() {
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        cpu_microseconds "$group"; cpu=$now; begun=${EPOCHREALTIME/[.,]/}
        run "$1" --build-arg ROUND="$begun" "$work/$2"
        ended=${EPOCHREALTIME/[.,]/}
        cpu_microseconds "$group"
        echo "$((ended - begun)) $((now - cpu))" >>"$work/$1.times"
    )
}
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.3f", v[int((NR + 1) / 2)] / 1e6 }'; }

for way in userns userns-single overlay copy; do
    mkdir "$work/$way"
    chown "$(user_of "$way")" "$work/$way"
    run "$way" -t base "$work/base"
    run "$way" -f "$work/status/warm" "$work/status"
done

"$rbuild" --version
printf '\n| step | way | wall s | times | CPU s | times |\n|---|---|---|---|---|---|\n'
row() { # TITLE CONTEXT FIRST SECOND
    local way first_wall= first_cpu= wall cpu
    for way in "$3" "$4"; do : >"$work/$way.times"; done
    for _ in $(seq "$runs"); do
        for way in "$3" "$4"; do timed "$way" "$2"; done
    done
    for way in "$3" "$4"; do
        wall=$(cut -d' ' -f1 "$work/$way.times" | median)
        cpu=$(cut -d' ' -f2 "$work/$way.times" | median)
        : "${first_wall:=$wall}" "${first_cpu:=$cpu}"
        awk -v title="$1" -v way="$way" -v w="$wall" -v c="$cpu" -v fw="$first_wall" -v fc="$first_cpu" \
            'BEGIN { printf "| %s | %s | %s | %.2f | %s | %.2f |\n", title, way, w, w / fw, c, c / fc }'
    done
}
row "apt-get install"                    apt    userns  userns-single
row "git status of 5,000 files, 100 times" status userns  userns-single
row "apt-get install"                    apt    overlay copy
row "git status of 5,000 files, 100 times" status overlay copy
