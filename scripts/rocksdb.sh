# Sourced by what links RocksDB as `make build` compiled it, instead of compiling it again.
: "${CARGO_TARGET_DIR:?is set by make}"
# The newest, where there are several.
library=$(ls -t "$CARGO_TARGET_DIR"/release/build/librocksdb-sys-*/out/librocksdb.a 2>/dev/null | head -n 1)
if [ -z "$library" ]; then
    echo "no compiled RocksDB in $CARGO_TARGET_DIR: run \`make build\` first" >&2
    exit 2
fi
ROCKSDB_LIB_DIR=$(dirname "$library")
ROCKSDB_STATIC=1
export ROCKSDB_LIB_DIR ROCKSDB_STATIC
