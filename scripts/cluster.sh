# Sourced by what runs nodes of its own on 127.0.0.1, in a directory that goes when the script ends.
#
# Takes SYNOD, name (of the script, for its messages), nodes ("1 2 3") and port: node N listens on port + N, and for HTTP on
# port + 10 + N. Gives dir, pids and SYNOD_ENDPOINTS, and what stands below.
SYNOD=${SYNOD:?path of the synod binary}
dir=$(mktemp -d "${TMPDIR:-/tmp}/synod-$name.XXXXXX")
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM
die() { printf '%s: %s\n' "$name" "$*" >&2; tail -n 5 "$dir"/log* >&2; exit 1; }

SYNOD_ENDPOINTS=
for n in $nodes; do SYNOD_ENDPOINTS=$SYNOD_ENDPOINTS${SYNOD_ENDPOINTS:+,}127.0.0.1:$((port + n)); done
export SYNOD_ENDPOINTS

# Starts every node, with these flags beside its own.
start() {
    pids=
    for n in $nodes; do
        "$SYNOD" server --data-dir "$dir/node-$n" --listen "127.0.0.1:$((port + n))" --http "127.0.0.1:$((port + 10 + n))" "$@" \
            >>"$dir/log-$n" 2>&1 &
        pids="$pids $!"
    done
}
# Ends the nodes in order.
stop() {
    for pid in $pids; do kill "$pid"; done
    for pid in $pids; do wait "$pid" || die "node $pid did not end in order"; done
    pids=
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
    since "$began"
}
since() { echo "$1 $(date +%s.%N)" | awk '{ printf "%.2f s", $2 - $1 }'; }
