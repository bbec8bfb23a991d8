#!/bin/sh
# Installs packages that are missing; prints the command where installing is not allowed.
#
# usage: install.sh WHAT PACKAGE...
# WHAT is what is missing, with its verb: "protoc is".
set -eu

what=$1
shift
if ! command -v apt-get >/dev/null 2>&1; then
    case $what in *" are") it=them ;; *) it=it ;; esac
    echo "setup: $what missing; install $it with this system's package manager" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "setup: $what missing; run this once:" >&2
    echo "    sudo apt-get install -y $*" >&2
    exit 1
fi
echo "setup: installing $*"
# shellcheck disable=SC2086 # it is no word, or two
$as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >/dev/null
