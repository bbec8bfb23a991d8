#!/bin/sh
# The binary of an earlier commit, from a work tree of its own. What the two commits have in common, RocksDB above all, is copied
# once from the target directory that all share, and not compiled again. The crates of this repository have the same names in both
# commits, so they need a target directory each: cargo tells sources apart by their times, and would take one for the other.
#   old.sh REV
set -eu
cd "$(dirname "$0")/.."
: "${CARGO_TARGET_DIR:?is set by make}"
CARGO=${CARGO:-cargo}
rev=${1:-}
if [ -z "$rev" ] || ! commit=$(git rev-parse --verify --quiet "$rev^{commit}"); then
    echo "old: REV=${rev:-...} names no commit of this repository; say make old REV=COMMIT" >&2
    exit 2
fi
short=$(git rev-parse --short "$commit")
old=$CARGO_TARGET_DIR/old
source=$old/src
binary=$old/synod-$short
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi
mkdir -p "$old"
if [ ! -d "$old/target" ]; then
    echo "old: taking over what is compiled already" >&2
    rm -rf "$old/target.new"
    mkdir -p "$old/target.new/release"
    cp -a "$CARGO_TARGET_DIR/release/build" "$CARGO_TARGET_DIR/release/deps" "$CARGO_TARGET_DIR/release/.fingerprint" \
        "$old/target.new/release/"
    # Of this repository's own crates nothing, and no programs.
    find "$old/target.new/release" -mindepth 2 -maxdepth 2 -name '*synod*' -exec rm -rf {} +
    find "$old/target.new/release/deps" -type f -perm -u+x ! -name '*.so' -delete
    mv "$old/target.new" "$old/target"
fi
# What is left of an earlier work tree, and git's memory of it.
git worktree remove --force "$source" 2>/dev/null || rm -rf "$source"
git worktree prune
git worktree add --quiet --detach "$source" "$commit"
trap 'git worktree remove --force "$source"' EXIT INT TERM
# The whole workspace, as `make build` has it: another selection of packages would change what RocksDB's build depends on.
(cd "$source" && CARGO_TARGET_DIR=$old/target "$CARGO" build --release --workspace --bin synod)
cp "$old/target/release/synod" "$binary.new"
mv "$binary.new" "$binary"
echo "$binary"
