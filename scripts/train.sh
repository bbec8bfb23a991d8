#!/bin/sh
# What a binary built with counters is made to do: writes and reads of several sizes from few clients and many, on one shard
# and on many, on three nodes that are stopped in order, which is when counters are written.
#
# usage: SYNOD=path/to/synod LLVM_PROFILE_FILE=… train.sh
set -eu
name=train nodes="1 2 3" port=${TRAIN_PORT:-7480}
. "$(dirname "$0")/cluster.sh"

# Its last words are shown where something fails.
quiet() { "$SYNOD" "$@" >"$dir/log" 2>&1 || die "synod $*"; }
load() { quiet bench "$@" --warmup 200ms --duration 2s; }

start --bootstrap "$SYNOD_ENDPOINTS"
until_works "$SYNOD" status >/dev/null
for shards in 1 4 64; do
    quiet table create "kv-$shards" --partition hash --shards "$shards"
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
stop
