#!/bin/sh
# A planted fault: every node's log is on a disk that says it has synced and has not. The campaign that fails power must not
# pass. Exit code 77: skipped.
#   lying-disk.sh CAMPAIGN_BINARY
set -u
cd "$(dirname "$0")/.."
out=${SYNOD_ARTEFACTS:-campaign-artefacts}/lying-disk
mkdir -p "$out"
compiler=$(command -v cc || command -v clang) || { echo "skipped: there is no C compiler"; exit 77; }
"$compiler" -O1 -Wall -Wextra -shared -fPIC -o "$out/lying_disk.so" tests/shims/lying_disk.c || exit 1
SYNOD_CAMPAIGN_PRELOAD=$(realpath "$out/lying_disk.so") SYNOD_ARTEFACTS=$out "$1" power-loss 5 >"$out/log" 2>&1
code=$?
if [ $code = 77 ]; then
    grep -o 'skipped: .*' "$out/log"
    exit 77
fi
found=$(grep -E 'FAILURE: .*(older than|damaged|not linearizable|does not exist)' "$out/log" | head -1)
if [ $code = 1 ] && [ -n "$found" ]; then
    echo "found, as it must be:$found" | cut -c1-400
    exit 0
fi
tail -20 "$out/log"
echo "lying-disk: power was lost on disks that do not sync, and nothing was found"
exit 1
