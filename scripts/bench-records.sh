#!/bin/sh
# Many small records on one node while compaction runs: rate and the slowest operations in the first minute and in the last,
# memory, bytes on disk, a restart.
#
# usage: SYNOD=path/to/synod bench-records.sh
# RECORDS (100,000,000) of VALUE_SIZE (16) bytes, appended by CLIENTS (16) in batches of 100 to KEYS (100,000) keys in 4 shards.
set -eu
RECORDS=${RECORDS:-100000000}
VALUE_SIZE=${VALUE_SIZE:-16}
CLIENTS=${CLIENTS:-16}
KEYS=${KEYS:-100000}
name=bench-records nodes=1 port=${RECORDS_PORT:-7480}
. "$(dirname "$0")/cluster.sh"

start --bootstrap "$SYNOD_ENDPOINTS"
node=${pids# }
until_works "$SYNOD" table create bench --partition hash --shards 4 --retain all >/dev/null
"$SYNOD" -o json bench append --batch 100 --ops $((RECORDS / 100)) --warmup 0s --clients "$CLIENTS" --keys "$KEYS" \
    --value-size "$VALUE_SIZE" >"$dir/report.json"
awk '/VmHWM/ { printf "memory at most: %d MiB\n", $2 / 1024 }' "/proc/$node/status"
du -sm "$dir/node-1" | awk -v n="$RECORDS" '{ printf "on disk: %d MiB, %.1f bytes a record\n", $1, $1 * 1048576 / n }'
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
kill -9 "$node"
wait "$node" 2>/dev/null || true
start
echo "killed and started again: read after $(until_works "$SYNOD" --timeout 1s scan bench --limit 1)"
stop
