#!/bin/sh
# Licences, duplicates, sources and known faults of the dependencies, by deny.toml. Exit code 77: skipped, cargo-deny is missing.
#   deny.sh CHECK…      of licenses, bans, sources (which need no network) and advisories (which fetches their database)
set -eu
cd "$(dirname "$0")/.."
if ! "${CARGO:-cargo}" deny --version >/dev/null 2>&1; then
    echo "skipped: cargo-deny is not installed, so the dependencies' $* were not checked (cargo install cargo-deny --locked)"
    exit 77
fi
# An exception that nothing needs is a warning of its own, hence an error.
exec "${CARGO:-cargo}" deny --locked check -D warnings --hide-inclusion-graph "$@"
