#!/bin/sh
# The binary for production and for measuring, linked as a whole and laid out by what it does under load: it is built with
# counters, scripts/train.sh makes them count, and it is built again by them. A quarter of an hour on two cores, less for a
# change. RocksDB is linked as `make build` compiled it.
set -eu
cd "$(dirname "$0")/.."
. scripts/rocksdb.sh
CARGO=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
merge=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [ ! -x "$merge" ] && ! rustup component add llvm-tools; then
    echo "dist: llvm-profdata of this compiler is missing; run this once: rustup component add llvm-tools" >&2
    exit 2
fi

# These flags join those of .cargo/config.toml; with a target named they leave build scripts and macros alone.
build() {
    flags=$1
    shift
    "$CARGO" build --profile dist -p synod --bin synod --target "$host" --config "target.$host.rustflags=['$flags']" "$@"
}

training=$CARGO_TARGET_DIR/training
build -Cprofile-generate --target-dir "$training"
counting=$training/$host/dist/synod
profile=$training/synod.profdata
if [ -z "$(find "$profile" -newer "$counting" 2>/dev/null)" ]; then
    rm -rf "$training/counts"
    SYNOD=$counting LLVM_PROFILE_FILE=$training/counts/%m-%p.profraw sh scripts/train.sh
    "$merge" merge -o "$profile" "$training/counts"
fi
# What has not changed since keeps the profile it was built by, whose counts of it are as good.
build "-Cprofile-use=$profile"
cp "$CARGO_TARGET_DIR/$host/dist/synod" "$CARGO_TARGET_DIR/dist/synod"
