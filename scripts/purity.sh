#!/bin/sh
# The consensus core and the rules that nodes and clients share depend on no runtime, storage, wire format or randomness: their
# dependency trees are the proof.
set -eu
pure() {
    tree=$(cargo tree -p "$1" --edges normal --prefix none)
    bad=$(printf '%s\n' "$tree" | grep -E '^(tokio|rocksdb|librocksdb-sys|prost|tonic|rand|rand_core|futures|crossbeam[a-z-]*) ' || true)
    if [ -n "$bad" ]; then
        echo "$1 is not pure: it depends on" >&2
        printf '%s\n' "$bad" >&2
        exit 1
    fi
    if grep -rnE 'HashMap|HashSet|Instant::|SystemTime|std::thread|std::fs|std::net|async fn' "$2" --include=*.rs; then
        echo "$1 is not pure: see above" >&2
        exit 1
    fi
    echo "$1 is pure: $(printf '%s\n' "$tree" | sort -u | wc -l) crates in its tree, none of them a runtime, a store or a source of randomness"
}
pure synod-paxos engine/paxos/src
pure synod-cluster cluster/src

# Planted faults are compiled in packages of their own: what ships depends on none of them, and declares no such feature.
if cargo tree -p synod --edges normal,build --prefix none | grep -E '^synod-[a-z]*-?(planted|sim)'; then
    echo "the shipped binary depends on planted faults: see above" >&2
    exit 1
fi
declared=$(grep -rl --include=Cargo.toml '^planted *=' . | grep -v '^./tests/planted/' || true)
if [ -n "$declared" ]; then
    echo "the feature 'planted' is declared outside tests/planted: $declared" >&2
    exit 1
fi
echo "synod holds no planted fault"
