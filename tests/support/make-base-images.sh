#!/usr/bin/env bash
# Makes the base images that the tests build from, once per machine:
#
#   debian          a minimal Debian, by mmdebstrap from this machine's own apt sources
#   golang          the same with golang-go and ca-certificates (tags latest, 1.15, 1.16, alpine)
#   busybox, alpine a static busybox with its links (an index of two platforms)
#
# They end as the storage folder of a Debian `docker-registry`, under FOLDER/registry, which the
# tests serve read-only as a mirror of docker.io. Nothing else reads FOLDER. A second run finds
# its work done and ends at once.
#
# usage: make-base-images.sh [FOLDER]      (as root; default: target/test-images)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/../../target/test-images}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

say() { printf 'base images: %s\n' "$*"; }
die() { printf 'base images: %s\n' "$*" >&2; exit 1; }

# One run at a time; another one waits and then finds everything made.
exec 9>"$folder/lock"
flock 9

[ "$(id -u)" = 0 ] || die "run this as root: device nodes and file owners go into the images"
for tool in mmdebstrap skopeo docker-registry busybox sha256sum gzip tar curl; do
    command -v "$tool" >/dev/null || die "\`$tool\` is not installed; .ci/run names the packages"
done
file "$(command -v busybox)" 2>/dev/null | grep -q 'dynamically' && die "busybox is not static: install busybox-static"

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
architecture=$(dpkg --print-architecture)

# What the images depend on: this script, the release, the machine's apt sources.
sources=$folder/sources.list.d
rm -rf "$sources" && mkdir -p "$sources"
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
    cp /etc/apt/sources.list.d/debian.sources "$sources/"
elif [ -s /etc/apt/sources.list ]; then
    cp /etc/apt/sources.list "$sources/"
else
    die "no Debian sources in /etc/apt/sources.list or /etc/apt/sources.list.d/debian.sources"
fi
apt-config dump | grep -E '^Acquire::(http|https|ftp|Check-Valid-Until|Retries)' >"$folder/apt.conf" || true
stamp=$(cat "$0" "$sources"/* "$folder/apt.conf" <(echo "$codename $architecture") | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
    say "made already in $folder"
    exit 0
fi

work=$(mktemp -d "$folder/work.XXXXXX")
registry_pid=
finish() {
    [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
rm -rf "$folder"/registry "$folder/stamp"

# blob FILE: moves FILE into the layout under its digest and prints `DIGEST SIZE`.
blob() {
    local digest size
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mkdir -p "$layout/blobs/sha256"
    mv "$1" "$layout/blobs/sha256/$digest"
    echo "$digest $size"
}

# manifest TAR CONFIG-JSON ARCHITECTURE: prints the descriptor of a one-layer image in $layout.
# CONFIG-JSON is the image config's `config` member.
manifest() {
    local tar=$1 config=$2 arch=$3 diff layer layer_size id id_size digest size
    diff=$(sha256sum "$tar" | cut -d' ' -f1)
    gzip -n -1 <"$tar" >"$work/layer.gz"
    read -r layer layer_size < <(blob "$work/layer.gz")
    cat >"$work/config.json" <<JSON
{"architecture":"$arch","os":"linux","created":"2024-01-01T00:00:00Z","config":$config,"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"2024-01-01T00:00:00Z","created_by":"base image for tests"}]}
JSON
    read -r id id_size < <(blob "$work/config.json")
    cat >"$work/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$id","size":$id_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
JSON
    read -r digest size < <(blob "$work/manifest.json")
    echo "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size,\"platform\":{\"architecture\":\"$arch\",\"os\":\"linux\"}}"
}

# layout DESCRIPTOR…: writes the layout's index.json: one index that holds the descriptors.
write_index() {
    local list digest size
    list=$(IFS=,; echo "$*")
    echo "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[$list]}" >"$work/index.json"
    read -r digest size < <(blob "$work/index.json")
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    echo "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$size,\"annotations\":{\"org.opencontainers.image.ref.name\":\"image\"}}]}" >"$layout/index.json"
}

publish() {
    local name
    for name in "$@"; do
        say "publishing $name"
        skopeo copy --quiet --all --dest-tls-verify=false "oci:$layout:image" "docker://127.0.0.1:$port/$name"
    done
}

debootstrap() {
    local tar=$1 include=$2 list
    list=$(ls "$sources"/*)
    mmdebstrap --quiet --variant=minbase --mode=root --aptopt="$folder/apt.conf" \
        --customize-hook='rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"' \
        ${include:+--include="$include"} "$codename" "$tar" - <"$list"
}

# The registry, on a port that is free now.
for port in $(shuf -i 20000-29999 -n 20); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
mkdir -p "$folder/registry"
cat >"$work/registry.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $folder/registry}}
http: {addr: "127.0.0.1:$port"}
YAML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_pid=$!
for _ in $(seq 100); do
    curl -fsS "http://127.0.0.1:$port/v2/" >/dev/null 2>&1 && break
    sleep 0.1
done
curl -fsS "http://127.0.0.1:$port/v2/" >/dev/null || { cat "$work/registry.log" >&2; die "docker-registry did not start"; }

debian_path='PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
go_path="PATH=/go/bin:/usr/local/go/bin:${debian_path#PATH=}"

say "busybox"
layout=$work/busybox; mkdir -p "$layout"
root=$work/busybox-root
mkdir -p "$root"/{bin,sbin,dev,etc,home,lib,mnt,opt,proc,root,run,srv,sys,tmp,usr/bin,usr/sbin,usr/local/bin,var/tmp}
chmod 0700 "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
chmod 0755 "$root/bin/busybox"
while read -r applet; do
    [ "$applet" = busybox ] || ln -s /bin/busybox "$root/bin/$applet"
done < <(busybox --list)
ln -s /bin/busybox "$root/usr/bin/env"
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
www-data:x:33:33:www-data:/srv:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
PASSWD
cat >"$root/etc/group" <<'GROUP'
root:x:0:
daemon:x:1:
adm:x:4:app
www-data:x:33:
staff:x:50:app
app:x:1000:
nogroup:x:65534:
GROUP
mkdir "$root/home/app"
chown 1000:1000 "$root/home/app"
tar --sort=name --mtime=@1704067200 --numeric-owner --format=pax --pax-option=delete=atime,delete=ctime \
    -cf "$work/busybox.tar" -C "$root" .
other=arm64; [ "$architecture" != arm64 ] || other=amd64
mkdir "$work/other"
echo "a layer of another platform: nobody on $architecture should read this" >"$work/other/wrong-platform"
tar --sort=name --mtime=@1704067200 --numeric-owner -cf "$work/other.tar" -C "$work/other" .
config="{\"Env\":[\"$debian_path\"],\"Cmd\":[\"sh\"]}"
write_index "$(manifest "$work/other.tar" "$config" "$other")" "$(manifest "$work/busybox.tar" "$config" "$architecture")"
publish library/busybox:latest library/alpine:latest

say "debian"
layout=$work/debian; mkdir -p "$layout"
debootstrap "$work/debian.tar" ""
write_index "$(manifest "$work/debian.tar" "{\"Env\":[\"$debian_path\"],\"Cmd\":[\"bash\"]}" "$architecture")"
publish library/debian:latest "library/debian:$codename"
rm -rf "$layout" "$work/debian.tar"

say "golang"
layout=$work/golang; mkdir -p "$layout"
debootstrap "$work/golang.tar" golang-go,ca-certificates
# No C compiler comes with it, so programs are built without cgo, as in any image without one.
config="{\"Env\":[\"$go_path\",\"GOPATH=/go\",\"GOTOOLCHAIN=local\",\"CGO_ENABLED=0\"],\"Cmd\":[\"bash\"],\"WorkingDir\":\"/go\"}"
write_index "$(manifest "$work/golang.tar" "$config" "$architecture")"
publish library/golang:latest library/golang:1.15 library/golang:1.16 library/golang:alpine

kill "$registry_pid"; wait "$registry_pid" 2>/dev/null || true; registry_pid=
chmod -R a+rX "$folder"
echo "$stamp" >"$folder/stamp"
say "made in $folder ($(du -sh "$folder/registry" | cut -f1))"
