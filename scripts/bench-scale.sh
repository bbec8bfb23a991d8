#!/bin/sh
# Many shards on three nodes: memory and processor time a node while they are idle, a restart of all, a node killed; then the
# rate of writes to one shard and to many.
#
# usage: SYNOD=path/to/synod bench-scale.sh
# SHARDS (10,000) idle ones, in tables of 1,000; LOADED ("1 64 1000") shards of a table under full load, SECONDS_EACH (10).
set -eu
SHARDS=${SHARDS:-10000}
LOADED=${LOADED:-1 64 1000}
SECONDS_EACH=${SECONDS_EACH:-10}
name=bench-scale nodes="1 2 3" port=${SCALE_PORT:-7460}
. "$(dirname "$0")/cluster.sh"

metric() { curl -sf "127.0.0.1:$((port + 10 + $1))/metrics" | awk -v name="$2" '$1 == name { print $2; found = 1 } END { if (!found) print 0 }'; }
# Waits until so many shards are led by the nodes named; how long that took, s.
led() {
    want=$1
    shift
    began=$(date +%s.%N)
    tries=0
    while :; do
        sum=0
        for n in "$@"; do sum=$((sum + $(metric "$n" synod_engine_leaders || echo 0))); done
        [ "$sum" -lt "$want" ] || break
        tries=$((tries + 1))
        [ "$tries" -lt 3000 ] || die "$sum of $want shards have a leader"
        sleep 0.05
    done
    since "$began"
}
memory() { for pid in $pids; do awk '/VmRSS/ { printf "%d ", $2 }' "/proc/$pid/status"; done; }
ticks() { for pid in $pids; do awk '{ printf "%d ", $14 + $15 }' "/proc/$pid/stat"; done; }
# Processor time of each node over ten seconds, % of a core.
idle() {
    before=$(ticks)
    sleep 10
    echo "$before$(ticks)" | awk -v hz="$(getconf CLK_TCK)" '{ for (i = 1; i <= 3; i++) printf "%.1f %% ", ($(i + 3) - $i) * 10 / hz }'
}

start --bootstrap "$SYNOD_ENDPOINTS"
until_works "$SYNOD" status >/dev/null
empty=$(memory)
echo "memory of the nodes, empty: ${empty}KiB"
made=0
while [ "$made" -lt "$SHARDS" ]; do
    count=$((SHARDS - made < 1000 ? SHARDS - made : 1000))
    "$SYNOD" --timeout 60s table create "idle-$made" --partition hash --shards "$count" >/dev/null
    made=$((made + count))
done
all=$((SHARDS + 1))
led "$all" 1 2 3 >/dev/null
sleep 5
full=$(memory)
echo "with $SHARDS idle shards: ${full}KiB, $(echo "$empty$full" | awk -v n="$SHARDS" '{ for (i = 1; i <= 3; i++) printf "%.1f ", ($(i + 3) - $i) / n }')KiB a shard"
echo "processor time of the idle nodes: $(idle)of a core"
stop
start
echo "restart of all: every shard led after $(led "$all" 1 2 3)"
sleep 5
echo "processor time then: $(idle)of a core"
set -- $pids
kill -9 "$1"
echo "node 1 killed: every shard led again after $(led "$all" 2 3)"
wait "$1" 2>/dev/null || true
shift
pids=$*
stop
rm -rf "$dir"/node-*

for shards in $LOADED; do
    start --bootstrap "$SYNOD_ENDPOINTS"
    until_works "$SYNOD" table create bench --partition hash --shards "$shards" >/dev/null
    led $((shards + 1)) 1 2 3 >/dev/null
    for clients in 64 256; do
        # Of the whole run: what stands behind the first bracket is of single seconds.
        found=$("$SYNOD" -o json bench put --clients "$clients" --warmup 2s --duration "${SECONDS_EACH}s" |
            sed -n 's/^[^[]*"ops_per_s":\([0-9.]*\)[^[]*"p50_us":\([0-9]*\)[^[]*"p99_us":\([0-9]*\).*/\1 \2 \3/p')
        echo "$shards shards, $clients clients: $(echo "$found" | awk '{ printf "%d puts/s, p50 %.1f ms, p99 %.1f ms", $1, $2 / 1000, $3 / 1000 }')"
    done
    stop
    rm -rf "$dir"/node-*
done
