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
packages="clang libclang-dev"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: clang and libclang are missing; install them with this system's package manager" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    echo "setup: installing $packages"
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $packages >/dev/null
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    echo "setup: installing $packages"
    sudo -n apt-get -o DPkg::Lock::Timeout=300 update -qq
    sudo -n DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $packages >/dev/null
else
    echo "setup: clang and libclang are missing; run this once:" >&2
    echo "    sudo apt-get install -y $packages" >&2
    exit 1
fi
