#!/bin/sh
# A table of one shard that is written to and read all the while: the shard is split twice, a fourth node joins, a leader's replica moves
# to it, the node is taken out of the cluster again; and a count at the end.
#
# usage: SYNOD=path/to/synod demo-elastic.sh
# The writer appends DEMO_BATCH (500) numbered records ten times a second to 1,000 keys. DEMO_PAUSE (3) seconds pass between two steps.
set -eu
SYNOD=${SYNOD:?path of the synod binary}
BATCH=${DEMO_BATCH:-500}
PAUSE=${DEMO_PAUSE:-3}
PORT=${DEMO_PORT:-7400}

dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-demo.XXXXXX")
dev= fourth= writer= reader=
cleanup() {
    : >"$dir/enough"
    for pid in $reader $writer $fourth $dev; do kill "$pid" 2>/dev/null || true; done
    for pid in $reader $writer $fourth $dev; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
say() { printf '\n== %s\n' "$*"; }
die() { printf 'demo-elastic: %s\n' "$*" >&2; cat "$dir"/*.log >&2 2>/dev/null || true; exit 1; }
# Shows a command, then runs it.
synod() {
    printf '\n$ synod %s\n' "$*"
    "$SYNOD" "$@" || die "synod $* failed"
}
# Waits up to 60 s until a command succeeds.
wait_until() {
    what=$1 tries=0
    shift
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || die "$what: not within a minute"
        kill -0 "$dev" 2>/dev/null || die "the cluster has ended"
        sleep 0.1
    done
}
# Whether each of the first three nodes tells this of itself: one may be yet to hear what another knows.
all_know() {
    wanted=$1
    shift
    for n in 1 2 3; do
        SYNOD_ENDPOINTS=127.0.0.1:$((PORT + n)) "$SYNOD" -o json "$@" 2>/dev/null | grep -Eq "$wanted" || return 1
    done
}
# The table's shards in order of their bounds, a line each.
shards() { "$SYNOD" -o json shard list events; }
last_shard() { shards | tail -n 1 | sed 's/^{"id":\([0-9]*\),.*/\1/'; }
leader() { shards | sed -n "s/^{\"id\":$1,.*\"leader\":\([0-9]*\).*/\1/p"; }
# How far the writer is, and the reader.
progress() { echo "(written so far: $(($(cat "$dir/batches") * BATCH)) records, read: $(wc -l <"$dir/followed"))"; }

say "three nodes"
printf '\n$ synod dev --nodes 3 --data-dir %s --base-port %s\n' "$dir/data" "$PORT"
"$SYNOD" dev --nodes 3 --data-dir "$dir/data" --base-port "$PORT" >"$dir/ready" 2>"$dir/dev.log" &
dev=$!
wait_until "the cluster" grep -q '^ready: ' "$dir/ready"
cat "$dir/ready"
SYNOD_ENDPOINTS=$(sed -n 's/^ready: //p' "$dir/ready")
export SYNOD_ENDPOINTS
# A new cluster is raised to its founders' version within a second.
wait_until "a version that knows splits" all_know '^[{]"cluster":"[0-9a-f]*","version":([4-9]|[1-9][0-9])' status

say "a table of one shard; a writer, and a reader that follows it"
synod table create events --partition range --retain all
printf '\n$ ... | synod load events - --format lines --key-regex ...     # in the background, %d records a second, 1,000 keys\n' $((BATCH * 10))
echo 0 >"$dir/batches"
# The number of batches is written before each: what is counted in the end is what was given to the writer.
batches() {
    b=0
    while [ -e "$dir/batches" ] && [ ! -e "$dir/enough" ]; do
        b=$((b + 1))
        echo "$b" >"$dir/batches.new" && mv "$dir/batches.new" "$dir/batches"
        awk -v b="$b" -v size="$BATCH" 'BEGIN { for (n = (b - 1) * size + 1; n <= b * size; n++) printf "user-%03d\t%d\n", n * 7 % 1000, n }'
        sleep 0.1
    done
}
batches | "$SYNOD" -o json load events - --format lines --key-regex '^([^\t]+)\t' >"$dir/loaded" 2>"$dir/load.log" &
writer=$!
printf '\n$ synod tail events --from earliest -f     # in the background\n'
"$SYNOD" tail events --from earliest -f >"$dir/followed" 2>"$dir/tail.log" &
reader=$!
sleep "$PAUSE"
synod status
progress

say "the shard is split where it has many keys, twice"
synod shard split "$(last_shard)" --at user-400
wait_until "the news of the split" all_know '"from":"user-400"' shard list events
sleep "$PAUSE"
progress
synod shard split "$(last_shard)" --at user-700
wait_until "the news of the split" all_know '"from":"user-700"' shard list events
sleep "$PAUSE"
progress
synod shard list events

say "a fourth node joins; the last shard's leader moves to it"
address=127.0.0.1:$((PORT + 4))
printf '\n$ synod server --data-dir %s --listen %s --http 127.0.0.1:%s --join %s\n' "$dir/node-4" "$address" $((PORT + 104)) "$SYNOD_ENDPOINTS"
"$SYNOD" server --data-dir "$dir/node-4" --listen "$address" --http "127.0.0.1:$((PORT + 104))" --join "$SYNOD_ENDPOINTS" \
    >"$dir/node-4.log" 2>&1 &
fourth=$!
wait_until "the fourth node" all_know '"id":4,' node list
shard=$(last_shard)
led() { [ -n "$(leader "$shard")" ]; }
wait_until "a leader of shard $shard" led
synod shard move "$shard" --from "$(leader "$shard")" --to 4
synod shard transfer-leader "$shard" --to 4
sleep "$PAUSE"
progress
synod status

say "the node is taken out of the cluster again: what it has goes to the others"
synod node decommission 4 --dry-run
synod node decommission 4
# It hands nothing over any more: it has nothing.
kill "$fourth" 2>/dev/null || true
wait "$fourth" || true
fourth=
sleep "$PAUSE"
progress
synod job list
synod status

say "the proof: every record once, each key in order, for the reader that followed and for one that begins now"
: >"$dir/enough"
wait "$writer" || die "the writer failed"
writer=
cat "$dir/loaded"
total=$(($(cat "$dir/batches") * BATCH))
[ "$(sed -n 's/.*"records":\([0-9]*\).*/\1/p' "$dir/loaded")" = "$total" ] || die "not every one of $total records was acknowledged"
caught_up() { [ "$(wc -l <"$dir/followed")" -ge "$total" ]; }
wait_until "the reader at the end" caught_up
kill "$reader"
wait "$reader" || die "the reader failed"
reader=
printf '\n$ synod tail events --from earliest\n'
"$SYNOD" tail events --from earliest >"$dir/tailed" 2>"$dir/tail.log" || die "the table cannot be read"
expected=$(awk -v n="$total" 'BEGIN { printf "%d %.0f", n, n * (n + 1) / 2 }')
for read in followed tailed; do
    found=$(awk -F'\t' '
        # key, offset, time, value: the value is the whole input line with its tab escaped, the number behind it.
        { n = split($4, part, /\\t/); number = part[n] + 0 }
        $2 != next_offset[$1]++ { print "key " $1 ": offset " $2 " instead of " next_offset[$1] - 1; bad = 1; exit }
        number <= last[$1] { print "key " $1 ": record " number " behind " last[$1]; bad = 1; exit }
        { last[$1] = number; count++; sum += number }
        END { if (!bad) printf "%d %.0f\n", count, sum }' "$dir/$read")
    [ "$found" = "$expected" ] || die "$read: $found instead of $expected"
done
echo "$total records acknowledged, $total found by both readers: each once, each key in order, offsets without a gap"
say "done"
