#!/bin/sh
# What a binary built with counters is made to do: writes and reads of several sizes from few clients and many, on one shard
# and on many, on three nodes that are stopped in order, which is when counters are written.
#
# usage: SYNOD=path/to/synod LLVM_PROFILE_FILE=… train.sh
set -eu
SYNOD=${SYNOD:?path of the synod binary}
PORT=${TRAIN_PORT:-7480}

dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-train.XXXXXX")
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM
die() { printf 'train: %s\n' "$*" >&2; tail -n 5 "$dir"/log* "$dir"/out >&2; exit 1; }

SYNOD_ENDPOINTS=127.0.0.1:$((PORT + 1)),127.0.0.1:$((PORT + 2)),127.0.0.1:$((PORT + 3))
export SYNOD_ENDPOINTS
for n in 1 2 3; do
    "$SYNOD" server --data-dir "$dir/node-$n" --listen "127.0.0.1:$((PORT + n))" --http "127.0.0.1:$((PORT + 10 + n))" \
        --bootstrap "$SYNOD_ENDPOINTS" >>"$dir/log-$n" 2>&1 &
    pids="$pids $!"
done
tries=0
until "$SYNOD" status >"$dir/out" 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || die "the cluster did not come up"
    sleep 0.1
done

load() { "$SYNOD" bench "$@" --warmup 200ms --duration 2s >"$dir/out" 2>&1 || die "synod bench $*"; }
for shards in 1 4 64; do
    "$SYNOD" table create "kv-$shards" --partition hash --shards "$shards" >"$dir/out" 2>&1 || die "no table"
    for clients in 1 64 256; do
        load put --table "kv-$shards" --clients "$clients"
        load get --table "kv-$shards" --clients "$clients"
    done
    load mixed --table "kv-$shards" --distribution zipfian
done
load put --table kv-4 --value-size 4096
load put --table kv-4 --clients 1000
load append --table history --clients 16 --batch 100
load append --table history --batch 1

for pid in $pids; do kill "$pid"; done
for pid in $pids; do wait "$pid" || die "node $pid did not end in order"; done
pids=
