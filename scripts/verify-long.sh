#!/bin/sh
# Everything that takes too long for CI, one after the other; what cannot run is told as skipped, never as passed. A table
# at the end, also in campaign-artefacts/summary.md, with each step's output beside it.
#   verify-long.sh CAMPAIGN_BINARY
set -u
cd "$(dirname "$0")/.."
campaign=$1
out=${SYNOD_ARTEFACTS:-campaign-artefacts}
summary=$out/summary.md
failed=0
mkdir -p "$out/logs"
rm -f "$out/campaigns.md"
{
    echo "| step | result | time |"
    echo "| --- | --- | --- |"
} >"$summary"

# step NAME COMMAND…
step() {
    name=$1
    shift
    echo "verify-long: $name, at $(date +%H:%M)"
    start=$(date +%s)
    { "$@" 2>&1; echo $? >"$out/logs/code"; } | tee "$out/logs/$name.log"
    case $(cat "$out/logs/code") in
        0) result=passed ;;
        77) result="skipped: $(grep -m1 -o 'skipped: .*' "$out/logs/$name.log" | cut -d' ' -f2-)" ;;
        *) result="FAILED, see $out/logs/$name.log" failed=1 ;;
    esac
    echo "| $name | $result | $(($(date +%s) - start)) s |" >>"$summary"
}

fuzz() {
    if ! "${CARGO:-cargo}" +nightly fuzz --version >/dev/null 2>&1; then
        echo "skipped: cargo-fuzz or the nightly compiler is not installed"
        return 77
    fi
    "$MAKE" --no-print-directory fuzz "SECONDS=${FUZZ_SECONDS:-60}"
}

step dependencies sh scripts/deny.sh advisories licenses bans sources
step simulation "$MAKE" --no-print-directory sim "SEEDS=${SEEDS:-10000}"
step explorer "$MAKE" --no-print-directory explore "SCHEDULES=${SCHEDULES:-100000}"
step model "$MAKE" --no-print-directory model
# shellcheck disable=SC2086 # no choice of mutants is no argument
step mutants "$MAKE" --no-print-directory mutants "ARGS=${MUTANTS:-}"
step fuzz fuzz
step lying-disk sh scripts/lying-disk.sh "$campaign"
# shellcheck disable=SC2086 # no repeats are no argument
step campaigns "$campaign" --long all ${REPEATS:-}
if [ -f "$out/campaigns.md" ]; then
    { echo && cat "$out/campaigns.md"; } >>"$summary"
fi
echo
cat "$summary"
exit $failed
