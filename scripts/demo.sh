#!/bin/sh
# A cluster of three processes, real input, the leader of a shard killed in mid-load, and a count at the end.
#
# usage: SYNOD=path/to/synod demo.sh [FILE]
# FILE is loaded as lines keyed by their first word. Default: this repository's own history, one record a changed file,
# keyed by path. Either is repeated to at least DEMO_RECORDS (200,000) records, numbered, so that loss, doubling and
# disorder all show.
set -eu
SYNOD=${SYNOD:?path of the synod binary}
FILE=${1:-}
RECORDS=${DEMO_RECORDS:-200000}
PORT=${DEMO_PORT:-7400}
cd "$(dirname "$0")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-demo.XXXXXX")
dev=
cleanup() {
    [ -z "$dev" ] || { kill "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; }
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM
say() { printf '\n== %s\n' "$*"; }
die() { printf "demo: %s\n" "$*" >&2; cat "$dir"/load*  "$dir/dev.log" >&2 2>/dev/null || true; exit 1; }

say "the input"
if [ -n "$FILE" ]; then
    awk 'NF { print $1 "\t" $0 }' "$FILE" >"$dir/source"
else
    git log --reverse --name-status --format='commit %h' | awk '
        $1 == "commit" { c = $2; next }
        NF >= 2 { print $NF "\t" c " " $1 }' >"$dir/source"
fi
[ -s "$dir/source" ] || die "there is nothing to load"
awk -v want="$RECORDS" -v times="$(awk -v n="$(wc -l <"$dir/source")" -v want="$RECORDS" 'BEGIN { print int((want + n - 1) / n) }')" '
    { line[NR] = $0 } END { for (t = 0; t < times; t++) for (i = 1; i <= NR; i++) print line[i] "\t" ++n }' \
    "$dir/source" >"$dir/input"
total=$(wc -l <"$dir/input")
echo "$total records of $(cut -f1 "$dir/input" | sort -u | wc -l) keys"

say "three nodes"
"$SYNOD" dev --nodes 3 --data-dir "$dir/data" --base-port "$PORT" >"$dir/ready" 2>"$dir/dev.log" &
dev=$!
tries=0
until grep -q '^ready: ' "$dir/ready" 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] && kill -0 "$dev" 2>/dev/null || { cat "$dir/dev.log" >&2; die "the cluster did not come up"; }
    sleep 0.1
done
cat "$dir/ready"
SYNOD_ENDPOINTS=$(sed -n 's/^ready: //p' "$dir/ready")
export SYNOD_ENDPOINTS

say "a hash table that keeps the latest record, and a range table that keeps all"
"$SYNOD" table create latest --partition hash --shards 4 --retain latest
"$SYNOD" table create history --partition range --split-at c --split-at e --split-at p --retain all
"$SYNOD" status

say "loading; the leader of a shard is killed on the way"
victim=$("$SYNOD" -o json shard list | sed -n 's/.*"table":"history".*"leader":\([0-9]*\).*/\1/p' | head -n 1)
[ -n "$victim" ] || die "no shard of the table has a leader"
pid=$(cat "$dir/data/node-$victim/pid")
half=$((total / 2))
# The first half is acknowledged within the pause, since its reader waits for nothing else; the process dies as the second
# half begins to flow.
{
    head -n "$half" "$dir/input"
    sleep 2
    { sleep 0.05; kill -KILL "$pid"; } &
    tail -n "+$((half + 1))" "$dir/input"
    wait
} | "$SYNOD" load history - --format lines --key-regex '^([^\t]+)\t' -o json >"$dir/loaded" 2>"$dir/load.log" || die "the load failed"
! kill -0 "$pid" 2>/dev/null || die "node $victim is still there"
killed="node $victim, process $pid, behind the first half"
echo "killed $killed"
cat "$dir/loaded"
[ "$(sed -n 's/.*"records":\([0-9]*\).*/\1/p' "$dir/loaded")" = "$total" ] || die "not every record was acknowledged"
"$SYNOD" dev restart "$victim" --data-dir "$dir/data"

say "some of it as a key-value table: each key's newest record"
head -n 20000 "$dir/input" | "$SYNOD" load latest - --format lines --key-regex '^([^\t]+)\t' 2>/dev/null
key=$(head -n 1 "$dir/input" | cut -f1)
"$SYNOD" get latest "$key"
"$SYNOD" scan latest --limit 3 2>/dev/null

say "one key's records from the history"
"$SYNOD" read history "$key" --limit 3
"$SYNOD" explain history "$key"

say "the proof: every record once, each key in order"
"$SYNOD" tail history --from earliest 2>/dev/null >"$dir/tailed"
awk -F'\t' '
    # key, offset, time, value: the value is the whole input line with its tabs escaped, the number behind the last one.
    { n = split($4, part, /\\t/); number = part[n] + 0 }
    $2 != next_offset[$1]++ { print "key " $1 ": offset " $2 " instead of " next_offset[$1] - 1; bad = 1; exit 1 }
    number <= last[$1] { print "key " $1 ": record " number " behind " last[$1]; bad = 1; exit 1 }
    { last[$1] = number; count++; sum += number }
    END { if (!bad) printf "%d %.0f\n", count, sum }' "$dir/tailed" >"$dir/proof" || { cat "$dir/proof"; die "the history is not what was loaded"; }
expected=$(awk -v n="$total" 'BEGIN { printf "%d %.0f", n, n * (n + 1) / 2 }')
[ "$(cat "$dir/proof")" = "$expected" ] || die "counted $(cat "$dir/proof"), loaded $expected"
echo "$total records acknowledged, $total found: each once, each key in order, offsets without a gap (killed: $killed)"

say "rate and latency, all three nodes up"
"$SYNOD" bench put --clients 64 --duration 3s
say "done"
