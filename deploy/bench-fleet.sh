#!/usr/bin/env bash
# `frameshift bench fleet` on servers of its own: PostgreSQL and SeaweedFS on loopback, in a temporary folder, ended with the script.
# deploy/setup.sh --tests brings both. Arguments go to the command: bench-fleet.sh --json, bench-fleet.sh --tasks 1000 --videos 10000 --jobs 1000.
# FRAMESHIFT=FILE is the program; without it a release build is made.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "bench-fleet: $*" >&2; exit 1; }
if [ -z "${FRAMESHIFT:-}" ]; then
  cargo build --release --locked --bin frameshift
  FRAMESHIFT=${CARGO_TARGET_DIR:-target}/release/frameshift
fi
postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -n "$postgres" ] || fail "PostgreSQL is not installed: deploy/setup.sh --tests"
weed=${FRAMESHIFT_TEST_TOOLS:-$HOME/.cache/frameshift-tests}/seaweedfs/bin/weed
[ -x "$weed" ] || weed=$(command -v weed) || fail "SeaweedFS is not installed: deploy/setup.sh --tests"

folder=$(mktemp -d)
# PostgreSQL refuses root.
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv --reuid postgres --regid postgres --clear-groups)
  chmod 755 "$folder"
fi
mkdir "$folder/database"
[ ${#as[@]} = 0 ] || chown postgres: "$folder/database"
pids=()
finish() {
  # Nothing that it stores is wanted.
  [ ${#pids[@]} = 0 ] || { kill -KILL "${pids[@]}"; wait "${pids[@]}"; } 2>/dev/null || true
  (cd / && "${as[@]}" "$postgres/pg_ctl" stop -m immediate -D "$folder/database/data" >/dev/null 2>&1) || true
  rm -rf "$folder"
}
trap finish EXIT

# Below the ports that the kernel gives to connections, so that none takes one of these before its server does.
free() {
  python3 -c 'import os, socket
found, port = [], 10000 + os.getpid() % 20000
while len(found) < 9:
    port = port + 1 if port < 30000 else 10000
    try:
        with socket.socket() as own:
            own.bind(("127.0.0.1", port))
        found.append(port)
    except OSError:
        pass
print(*found)'
}
read -r db master master_grpc volume volume_grpc filer filer_grpc s3 s3_grpc <<<"$(free)"

# Commits reach the disk, as they do in production.
(cd "$folder/database" && "${as[@]}" "$postgres/initdb" --username=postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 -D data >/dev/null &&
  "${as[@]}" "$postgres/pg_ctl" start -w -D data -l log \
    -o "-c listen_addresses=127.0.0.1 -c port=$db -c unix_socket_directories=$folder/database -c max_connections=200 -c shared_buffers=512MB" >/dev/null)
(cd "$folder/database" && "${as[@]}" "$postgres/psql" -q -h 127.0.0.1 -p "$db" -U postgres -c 'CREATE DATABASE fleet')

mkdir "$folder/objects"
cat >"$folder/s3.json" <<'JSON'
{"identities":[{"name":"bench","credentials":[{"accessKey":"bench","secretKey":"not-a-secret"}],"actions":["Admin","Read","Write","List","Tagging"]}]}
JSON
printf 'AWS_ACCESS_KEY_ID = bench\nAWS_SECRET_ACCESS_KEY = not-a-secret\n' >"$folder/credentials"
"$weed" server -ip 127.0.0.1 -ip.bind 127.0.0.1 -filer -s3 -volume.max 100 -master.volumeSizeLimitMB 256 -s3.port.iceberg 0 -s3.port.lance 0 -s3.iam=false \
  -master.telemetry=false -master.volumePreallocate=false "-dir=$folder/objects" "-s3.config=$folder/s3.json" \
  "-master.port=$master" "-master.port.grpc=$master_grpc" "-volume.port=$volume" "-volume.port.grpc=$volume_grpc" \
  "-filer.port=$filer" "-filer.port.grpc=$filer_grpc" "-s3.port=$s3" "-s3.port.grpc=$s3_grpc" >"$folder/weed.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
  curl -s -o /dev/null "http://127.0.0.1:$s3/" && break
  sleep 0.2
done
sleep 5

"$FRAMESHIFT" bench fleet --database-url "postgres://postgres@127.0.0.1:$db/fleet?sslmode=disable" \
  --objects-url s3://videos/bench --objects-endpoint "http://127.0.0.1:$s3" --objects-credentials-file "$folder/credentials" "$@"
