#!/bin/sh
# Installs what compiling RocksDB needs: clang and libclang. Prints the command where installing is not allowed.
set -eu

have_libclang() {
    # `ls` would fail where only one of the places has it.
    for file in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so*; do
        [ -e "$file" ] && return 0
    done
    return 1
}
if command -v clang++ >/dev/null 2>&1 && have_libclang; then
    exit 0
fi
exec sh "$(dirname "$0")/install.sh" "clang and libclang are" clang libclang-dev
