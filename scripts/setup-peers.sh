#!/bin/sh
# Installs what compiling the driver of etcd needs: protoc and the descriptions it comes with. Prints the command where installing is
# not allowed.
# The systems themselves are not installed: bench-peers says which are missing, and how to install them.
set -eu

command -v protoc >/dev/null 2>&1 && [ -f /usr/include/google/protobuf/descriptor.proto ] && exit 0
package="protobuf-compiler libprotobuf-dev"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: protoc is missing; install it with this system's package manager" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    echo "setup: installing $package"
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $package >/dev/null
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    echo "setup: installing $package"
    sudo -n apt-get -o DPkg::Lock::Timeout=300 update -qq
    sudo -n DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $package >/dev/null
else
    echo "setup: protoc is missing; run this once:" >&2
    echo "    sudo apt-get install -y $package" >&2
    exit 1
fi
