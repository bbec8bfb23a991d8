#!/bin/sh
# Coverage-guided fuzzing of the decoders, each target for so many seconds: fuzz.sh SECONDS [TARGET…]
#
# tests/fuzz is compiled by a nightly compiler, with instrumentation, into a directory of its own; RocksDB is linked as
# `make build` compiled it, and not compiled again. KEEP=1 adds what reaches further to tests/fuzz/corpus.
set -eu
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
seconds=$1
shift

if ! "$CARGO" +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzzing needs: rustup toolchain install nightly --profile minimal; cargo install cargo-fuzz" >&2
    exit 2
fi
. scripts/rocksdb.sh

# No sanitizer: the code is safe Rust, which an address sanitizer would only slow down; memory is held to its bound by the
# targets themselves.
out=$CARGO_TARGET_DIR/fuzz
"$CARGO" +nightly fuzz build --fuzz-dir tests/fuzz --sanitizer none --target-dir "$out" >&2
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
corpus=$CARGO_TARGET_DIR/release/corpus
[ $# -gt 0 ] || set -- $("$corpus" targets)

failed=0
printf '%-16s %12s %9s %9s %7s %7s\n' target executions a_second edges inputs faults
for name; do
    inputs=$out/corpus/$name
    found=fuzz-artefacts/$name
    log=$out/$name.log
    mkdir -p "$inputs" "$found"
    "$corpus" unpack "$name" "$inputs"
    faults=0
    "$out/$host/release/$name" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$found/" "$inputs" >"$log" 2>&1 || faults=1
    stat() { sed -n "s/^stat::$1: *//p" "$log"; }
    edges=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    printf '%-16s %12s %9s %9s %7s %7s\n' "$name" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" \
        "$edges" "$(ls "$inputs" | wc -l)" "$faults"
    if [ "$faults" -gt 0 ]; then
        failed=1
        grep -E 'panicked at|^ERROR|^==[0-9]+==' -A 2 "$log" | head -n 8 || true
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "replay: DECODER=$name INPUT=$PWD/$input $CARGO test --release --workspace --test replay -- --nocapture"
    elif [ -n "${KEEP:-}" ]; then
        kept=$out/kept/$name
        rm -rf "$kept"
        # What is kept stays, faults of old among it; only what reaches further joins it.
        "$corpus" unpack "$name" "$kept"
        "$out/$host/release/$name" -merge=1 -use_counters=0 -max_len=2048 "$kept" "$inputs" >>"$log" 2>&1
        "$corpus" pack "$name" "$kept"
    fi
done
exit $failed
