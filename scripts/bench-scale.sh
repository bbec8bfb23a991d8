#!/bin/sh
# Many shards on three nodes: memory and processor time a node while they are idle, a restart of all, a node killed; then the
# rate of writes to one shard and to many.
#
# usage: SYNOD=path/to/synod bench-scale.sh
# SHARDS (10,000) idle ones, in tables of 1,000; LOADED ("1 64 1000") shards of a table under full load, SECONDS_EACH (10).
set -eu
SYNOD=${SYNOD:?path of the synod binary}
SHARDS=${SHARDS:-10000}
LOADED=${LOADED:-1 64 1000}
SECONDS_EACH=${SECONDS_EACH:-10}
PORT=${SCALE_PORT:-7460}

dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-scale.XXXXXX")
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM
die() { printf 'bench-scale: %s\n' "$*" >&2; tail -n 5 "$dir"/log* >&2; exit 1; }

peers=127.0.0.1:$((PORT + 1)),127.0.0.1:$((PORT + 2)),127.0.0.1:$((PORT + 3))
export SYNOD_ENDPOINTS=$peers
start() {
    pids=
    for n in 1 2 3; do
        "$SYNOD" server --data-dir "$dir/node-$n" --listen "127.0.0.1:$((PORT + n))" --http "127.0.0.1:$((PORT + 10 + n))" "$@" \
            >>"$dir/log-$n" 2>&1 &
        pids="$pids $!"
    done
}
stop() {
    for pid in $pids; do kill "$pid"; done
    for pid in $pids; do wait "$pid" || die "node $pid did not end in order"; done
}
metric() { curl -sf "127.0.0.1:$((PORT + 10 + $1))/metrics" | awk -v name="$2" '$1 == name { print $2; found = 1 } END { if (!found) print 0 }'; }
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
    echo "$began $(date +%s.%N)" | awk '{ printf "%.2f s", $2 - $1 }'
}
memory() { for pid in $pids; do awk '/VmRSS/ { printf "%d ", $2 }' "/proc/$pid/status"; done; }
ticks() { for pid in $pids; do awk '{ printf "%d ", $14 + $15 }' "/proc/$pid/stat"; done; }
# Processor time of each node over ten seconds, % of a core.
idle() {
    before=$(ticks)
    sleep 10
    echo "$before$(ticks)" | awk -v hz="$(getconf CLK_TCK)" '{ for (i = 1; i <= 3; i++) printf "%.1f %% ", ($(i + 3) - $i) * 10 / hz }'
}

start --bootstrap "$peers"
tries=0
until "$SYNOD" status >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || die "the cluster did not come up"
    sleep 0.1
done
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
pids=
rm -rf "$dir"/node-*

for shards in $LOADED; do
    start --bootstrap "$peers"
    tries=0
    until "$SYNOD" table create bench --partition hash --shards "$shards" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || die "no table of $shards shards"
        sleep 0.1
    done
    led $((shards + 1)) 1 2 3 >/dev/null
    for clients in 64 256; do
        found=$("$SYNOD" -o json bench put --clients "$clients" --warmup 2s --duration "${SECONDS_EACH}s" |
            sed -n 's/.*"ops_per_s":\([0-9.]*\).*"p50_us":\([0-9]*\).*"p99_us":\([0-9]*\).*/\1 \2 \3/p')
        echo "$shards shards, $clients clients: $(echo "$found" | awk '{ printf "%d puts/s, p50 %.1f ms, p99 %.1f ms", $1, $2 / 1000, $3 / 1000 }')"
    done
    stop
    pids=
    rm -rf "$dir"/node-*
done
