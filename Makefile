# Two commands are enough on a fresh machine: `make demo` and `make test`. Both do all the set-up.

CARGO ?= cargo
# One target directory for every clone, so that RocksDB is compiled once; set SYNOD_TARGET_DIR to move it.
export CARGO_TARGET_DIR := $(or $(SYNOD_TARGET_DIR),$(HOME)/.cache/synod/target)
BIN := $(CARGO_TARGET_DIR)/release/synod
DIST := $(CARGO_TARGET_DIR)/dist/synod
# Always the whole workspace in one profile: another selection of packages or profile would compile RocksDB again.
ALL := --release --workspace

.PHONY: build dist old setup demo demo-elastic dev test deny verify fix explore sim campaign verify-long fuzz model model-short mutants mutants-check bench bench-map bench-peers bench-peers-check bench-change bench-limits bench-tails bench-gaps bench-scale bench-records bench-raft bench-raft-check clean

build: setup
	$(CARGO) build $(ALL)

# The binary for production, linked as a whole and laid out by a profile: a quarter of an hour. All comparisons below measure it.
dist: build
	@CARGO=$(CARGO) sh scripts/dist.sh
	@echo $(DIST)

# clang compiles RocksDB, libclang reads its headers. Installed where that is allowed, else the command is printed.
setup:
	@sh scripts/setup.sh

# An earlier binary, for campaigns that replace nodes by another version: make old REV=v0.1, then
# SYNOD_OLD_BIN=$(CARGO_TARGET_DIR)/old/synod-REV make campaign NAME=upgrade. RocksDB is not compiled again.
old: build
	@CARGO=$(CARGO) sh scripts/old.sh "$(REV)"

demo: build
	@SYNOD=$(BIN) sh scripts/demo.sh $(FILE)

# Shards that are split and moved while they are written to, a node that joins and goes again, and a count at the end.
demo-elastic: build
	@SYNOD=$(BIN) sh scripts/demo-elastic.sh

dev: build
	$(BIN) dev

# The binary first: the end-to-end tests run it, and `cargo test` alone would leave an older one in place.
test: build
	$(CARGO) test $(ALL)

# Reads only; what CI runs.
verify: setup
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(ALL) --no-deps
	sh scripts/purity.sh
	@CARGO=$(CARGO) sh scripts/deny.sh licenses bans sources || test $$? -eq 77
	$(MAKE) model-short
	$(MAKE) mutants-check
	$(MAKE) test

# Licences, duplicates, sources and known faults of the dependencies (deny.toml); fetches the database of faults.
deny:
	@CARGO=$(CARGO) sh scripts/deny.sh advisories licenses bans sources

# Writes.
fix:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) fmt $(MODEL)
	$(CARGO) fmt $(MUTANTS)

# More schedules of the explorer: make explore SCHEDULES=100000
explore: setup
	SYNOD_EXPLORE_SCHEDULES=$(or $(SCHEDULES),100000) $(CARGO) test $(ALL) --test explore -- --nocapture

# More seeds of the whole-node simulation: make sim SEEDS=10000 FROM=500; FAILURES=N goes on until N have failed
sim: setup
	SYNOD_SIM_SEEDS=$(or $(SEEDS),10000) SYNOD_SIM_FROM=$(or $(FROM),0) SYNOD_SIM_FAILURES=$(or $(FAILURES),1) \
	$(CARGO) test $(ALL) --test sim every_run -- --nocapture

# A fault campaign on the real binary: make campaign NAME=kill REPEATS=200; NAME=all runs each. Exit code 77: skipped
campaign: build
	SYNOD_BIN=$(BIN) $(CARGO_TARGET_DIR)/release/campaign $(or $(NAME),all) $(REPEATS)

# Fuzzing of every decoder, guided by coverage: make fuzz SECONDS=60; TARGET="message csv" only these; KEEP=1 keeps what it finds.
fuzz: build
	@CARGO=$(CARGO) KEEP=$(KEEP) sh scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

# What is too long for CI: every campaign as often as it is claimed, 10,000 seeds, the explorer wide, the model check's large
# bounds, every mutant, a minute of fuzzing a target; hours. A table at the end, kept in campaign-artefacts/summary.md. SEEDS, SCHEDULES,
# REPEATS, MODELS, MUTANTS and FUZZ_SECONDS make it less. Campaigns are run on what `make dist` makes.
verify-long: dist
	@CARGO=$(CARGO) SYNOD_BIN=$(DIST) MAKE=$(MAKE) sh scripts/verify-long.sh $(CARGO_TARGET_DIR)/release/campaign

# The model check is a workspace of its own, with its own target directory: its dependencies would change how the others are
# compiled. Short: its lints, small bounds to the end, every removed guard found; seconds once it is built.
MODEL := --manifest-path tests/model/Cargo.toml
model-short:
	$(CARGO) fmt $(MODEL) --check
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/model $(CARGO) clippy --release $(MODEL) --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/model $(CARGO) test --release $(MODEL) -- --nocapture

# The large bounds, each to its end or 30 minutes or 8 GiB: half an hour in all. One alone: make model MODELS=crash
model:
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/model $(CARGO) run --release $(MODEL) -- $(MODELS)

# Every guard of the core, the sessions and the apply path bent, one at a time; the tests have to notice 95 of 100. Hours;
# results in campaign-artefacts/mutants.tsv, and those there are not run again. ARGS="--every 20" or ARGS="--only sync.rs": less.
MUTANTS := --manifest-path tests/mutants/Cargo.toml
mutants: build
	@CARGO=$(CARGO) sh scripts/mutants.sh $(ARGS)

# Lints and tests of the program that does it.
mutants-check:
	$(CARGO) fmt $(MUTANTS) --check
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/mutants/tool $(CARGO) clippy --release $(MUTANTS) --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/mutants/tool $(CARGO) test --release $(MUTANTS)

bench: setup
	$(CARGO) bench $(ALL:--release=) --profile release

# A map of 100,000 shards: whole, one change and its delta, and the state from its rows; two minutes.
bench-map: setup
	$(CARGO) bench $(ALL:--release=) --profile release --bench map

# Synod beside etcd, NATS JetStream and Redis; within 40 minutes, results in docs/benchmarks/peers. Their drivers have a target
# directory of their own, since their dependencies would change how the workspace's are compiled; nothing there needs RocksDB.
# ARGS="--help" says what else can be measured, ARGS=--resume goes on with a run that was interrupted.
PEERS := --release -p synod-peers --features peers --target-dir $(CARGO_TARGET_DIR)/peers
bench-peers: dist bench-peers-check
	SYNOD_BIN=$(DIST) $(CARGO_TARGET_DIR)/peers/release/bench-peers $(ARGS)

# Lints, tests and the binaries of the comparison.
bench-peers-check:
	@sh scripts/setup-peers.sh
	$(CARGO) clippy $(PEERS) --all-targets -- -D warnings
	$(CARGO) test $(PEERS)
	$(CARGO) build $(PEERS)

# What a change costs: this binary beside an older one (SYNOD_OLD_BIN, as `make old REV=...` prints it), judged cell by cell; twenty
# minutes. Both as `make build` makes them, since `make dist` lays each out by a profile of its own.
bench-change: build bench-peers-check
	SYNOD_BIN=$(BIN) $(CARGO_TARGET_DIR)/peers/release/bench-change $(ARGS)

# The limits of this machine, and Synod's share of them; results in docs/benchmarks/limits.
bench-limits: dist
	@sh scripts/setup-peers.sh
	$(CARGO) build $(PEERS)
	$(CARGO) bench $(ALL:--release=) --profile release --bench log_writer
	SYNOD_BIN=$(DIST) $(CARGO_TARGET_DIR)/peers/release/bench-limits --criterion $(CARGO_TARGET_DIR)/criterion $(ARGS)

# The slowest operations while a backup, kills, restarts and transfers happen; two minutes, results in docs/benchmarks/tails.
bench-tails: dist bench-peers-check
	SYNOD_BIN=$(DIST) $(CARGO_TARGET_DIR)/peers/release/bench-tails $(ARGS)

# The longest time between two answers that a client sees while a shard is split, handed over or moved, each 20 times beside a steady
# load; a quarter of an hour, results in docs/benchmarks/gaps. ARGS="--help" says what can be set.
bench-gaps: dist bench-peers-check
	SYNOD_BIN=$(DIST) $(CARGO_TARGET_DIR)/peers/release/bench-gaps $(ARGS)

# Ten thousand idle shards, a restart and a killed node with them, and writes to one shard, 64 and 1,000: five minutes.
bench-scale: dist
	@SYNOD=$(DIST) sh scripts/bench-scale.sh

# A hundred million records of 16 B on one node (RECORDS): the first minute beside the last, memory, a restart. 10 GB of disk.
bench-records: dist
	@SYNOD=$(DIST) sh scripts/bench-records.sh

# Synod's core beside that of raft-rs over one log store, transport and load, in one process; four minutes, results in
# docs/benchmarks/raft. The feature adds crates and changes none, so RocksDB stays as it is compiled. ARGS="--help" says what can be set.
RAFT := $(ALL) --features synod-raft/raft
bench-raft: setup
	$(CARGO) build $(RAFT) --bin bench-raft
	$(CARGO_TARGET_DIR)/release/bench-raft --out docs/benchmarks/raft $(ARGS)

# Its lints and tests.
bench-raft-check: setup
	$(CARGO) clippy $(RAFT) --all-targets -- -D warnings
	$(CARGO) test $(RAFT) --bin bench-raft

clean:
	$(CARGO) clean
