#!/bin/sh
# Installs what compiling the driver of etcd needs: protoc and the descriptions it comes with. Prints the command where installing is
# not allowed.
# The systems themselves are not installed: bench-peers says which are missing, and how to install them.
set -eu

command -v protoc >/dev/null 2>&1 && [ -f /usr/include/google/protobuf/descriptor.proto ] && exit 0
exec sh "$(dirname "$0")/install.sh" "protoc is" protobuf-compiler libprotobuf-dev
