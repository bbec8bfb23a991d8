#!/bin/sh
# Many small records on one node while compaction runs: rate and the slowest operations in the first minute and in the last,
# memory, bytes on disk, a restart.
#
# usage: SYNOD=path/to/synod bench-records.sh
# RECORDS (100,000,000) of VALUE_SIZE (16) bytes, appended by CLIENTS (16) in batches of 100 to KEYS (100,000) keys in 4 shards.
set -eu
SYNOD=${SYNOD:?path of the synod binary}
RECORDS=${RECORDS:-100000000}
VALUE_SIZE=${VALUE_SIZE:-16}
CLIENTS=${CLIENTS:-16}
KEYS=${KEYS:-100000}
PORT=${RECORDS_PORT:-7481}

dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-records.XXXXXX")
pid=
cleanup() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; } || true
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM
die() { printf 'bench-records: %s\n' "$*" >&2; tail -n 5 "$dir/log" >&2; exit 1; }

export SYNOD_ENDPOINTS=127.0.0.1:$PORT
start() {
    "$SYNOD" server --data-dir "$dir/node" --listen "$SYNOD_ENDPOINTS" --http "127.0.0.1:$((PORT + 1))" "$@" >>"$dir/log" 2>&1 &
    pid=$!
}
# Waits until the command succeeds; how long that took, s.
until_works() {
    began=$(date +%s.%N)
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] || die "no success within a minute or more: $*"
        sleep 0.05
    done
    echo "$began $(date +%s.%N)" | awk '{ printf "%.2f s", $2 - $1 }'
}

start --bootstrap "$SYNOD_ENDPOINTS"
until_works "$SYNOD" table create bench --partition hash --shards 4 --retain all >/dev/null
"$SYNOD" -o json bench append --batch 100 --ops $((RECORDS / 100)) --warmup 0s --clients "$CLIENTS" --keys "$KEYS" \
    --value-size "$VALUE_SIZE" >"$dir/report.json"
awk '/VmHWM/ { printf "memory at most: %d MiB\n", $2 / 1024 }' "/proc/$pid/status"
du -sm "$dir/node" | awk -v n="$RECORDS" '{ printf "on disk: %d MiB, %.1f bytes a record\n", $1, $1 * 1048576 / n }'
# Of the first or last seconds: the rate, the least and the greatest of a second, the p99 of a second.
minute() {
    tr '{' '\n' <"$dir/report.json" | sed -n 's/^"second":[0-9]*,"ops":\([0-9]*\),.*"p99_us":\([0-9]*\),.*/\1 \2/p' | sed '$d' |
        "$1" -n "$2" | sort -n -k2 | awk -v name="$3" '
            { n++; sum += $1; p99[n] = $2 / 1000; if (n == 1 || $1 < least) least = $1; if ($1 > most) most = $1 }
            END { printf "%s: %d records/s (a second: %d to %d), p99 a second %.1f ms (median), %.1f (worst)\n",
                name, sum * 100 / n, least * 100, most * 100, p99[int((n + 1) / 2)], p99[n] }'
}
minute head 1000000 "all of it"
minute head 60 "first minute"
minute tail 60 "last minute"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
start
echo "killed and started again: read after $(until_works "$SYNOD" --timeout 1s scan bench --limit 1)"
kill "$pid"
wait "$pid" || die "the node did not end in order"
pid=
