#!/bin/sh
# The first hour of somebody who knows `docker build`, as it is typed. Run by tests/first_hour.rs,
# on a terminal and without one, as root and as an ordinary user; what it shows is compared with
# testdata/first-hour/.
#
# Wants in the environment: RBUILD_ROOT (empty), SECOND (an empty folder for a second store),
# REGISTRY (one that takes pushes), PORT (a free one), and `rbuild` and `podman` on PATH. Works in the current folder.
set -u
# `--both`: errors and progress go where results go, as CI systems show them.
[ "${1:-}" = --both ] && exec 2>&1

# Shows a command and runs it, as a shell's user sees both.
try() {
    printf '\n$ %s\n' "$*"
    eval "$*" || printf '(exit code %s)\n' "$?"
}

mkdir web && cd web || exit 1
echo 'hello from rbuild' >index.html
cat >Dockerfile <<'END'
FROM busybox
ENV PORT=8080
WORKDIR /www
COPY index.html .
RUN wc -c < index.html > size
CMD ["sh", "-c", "exec httpd -f -p 127.0.0.1:$PORT -h /www"]
END

printf '\n### build\n'
try 'rbuild -t web .'
printf '\n### build again: nothing runs\n'
try 'rbuild -t web .'
printf '\n### change a file\n'
echo 'hello again' >index.html
try 'rbuild -t web .'
try 'rbuild images --format "table {{.Repository}}\t{{.Tag}}\t{{.Size}}"'

printf '\n### break it, and understand why\n'
sed 's/^RUN .*/RUN wc -c < index.htm > size/' Dockerfile >Broken
try 'rbuild -f Broken -t web .'
try 'rbuild -t web --target nothing .'
try 'rbuild -t web --buld-arg A=1 .'

printf '\n### publish it, and have it on another machine\n'
try 'rbuild tag web "$REGISTRY"/team/web:1.0'
try 'rbuild push "$REGISTRY"/team/web:1.0'
try 'rbuild --root "$SECOND" pull "$REGISTRY"/team/web:1.0'
try 'rbuild --root "$SECOND" images --format "{{.Repository}}:{{.Tag}}"'

printf '\n### hand it to podman\n'
try 'rbuild save web | podman load --quiet'
try 'podman images --format "{{.Repository}}:{{.Tag}}"'

printf '\n### have its files\n'
try 'rbuild -o out .'
try 'cat out/www/index.html out/www/size'

printf '\n### run it\n'
printf '\n$ rbuild run -p %s:%s -e PORT=%s web &\n' "$PORT" "$PORT" "$PORT"
rbuild run -p "$PORT:$PORT" -e "PORT=$PORT" web &
server=$!
tries=0
until curl -sf -o answer "http://127.0.0.1:$PORT/" || [ "$tries" = 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
try 'cat answer'
kill "$server"
wait "$server"
echo "(exit code $?)"
try 'rbuild run web cat /www/size'

printf '\n### look at it\n'
try 'rbuild history --format "{{.CreatedBy}}" web'
try 'rbuild inspect -f "{{.Config.Cmd}} {{.Config.WorkingDir}}" web'

printf '\n### make room\n'
try 'rbuild df --format "{{.Type}}: {{.TotalCount}}"'
try 'rbuild prune --all --force'
try 'rbuild df --format "{{.Type}}: {{.TotalCount}} {{.Size}}"'
try 'rbuild images -q'
try 'find "$RBUILD_ROOT"/*/ -type f'
