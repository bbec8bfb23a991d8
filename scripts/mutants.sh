#!/bin/sh
# Bends every guard of the consensus core, the sessions and the apply path, one at a time, in one build of a copy of this tree:
# golden scripts, explorer and simulation have to notice. Hours; goes on where it was interrupted.
#   mutants.sh [ARGUMENTS OF run]
set -eu
cd "$(dirname "$0")/.."
. scripts/rocksdb.sh
out=$CARGO_TARGET_DIR/mutants
results=${SYNOD_ARTEFACTS:-campaign-artefacts}/mutants.tsv
mkdir -p "$out" "$(dirname "$results")"
CARGO_TARGET_DIR=$out/tool "${CARGO:-cargo}" build --release --manifest-path tests/mutants/Cargo.toml
CARGO_TARGET_DIR=$out/target "$out/tool/release/synod-mutants" --tree "$out/src" run --results "$results" "$@"
