# coldpress: every command there is. `make` alone lists them.

SHELL := /bin/bash
CARGO ?= cargo
# Python's packages for tools/check_manifest.py.
VENV := target/venv

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## The two programs, optimised, in target/release
	$(CARGO) build --release --locked

.PHONY: demo
demo: build ## Convert a sample image that it makes, verify it, and read a file back (no root; everything under target/demo)
	tools/demo.sh target/release target/demo

.PHONY: test-tools
test-tools: ## Install what the tests need (Debian packages, cargo-nextest, Python packages; needs root for the first)
	tools/test-tools.sh $(VENV)

.PHONY: test
test: test-tools ## All tests; installs what it needs, and needs root for mounts
	@[ "$$(id -u)" = 0 ] || { echo "make test mounts block images: run it as root"; exit 1; }
	$(CARGO) nextest run --locked --no-fail-fast --features age
	$(VENV)/bin/python tools/check_manifest.py --vectors testdata/vectors

.PHONY: test-long
test-long: build test-tools ## The suite that every store passes, and conversions by who may only put, against Ceph and azurite (root; 5 minutes)
	tools/test-long.sh

.PHONY: check
check: ## Format, lints, documentation, licences and advisories
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets --features age -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check licenses bans sources; else echo "cargo-deny is missing: cargo install cargo-deny"; exit 1; fi

.PHONY: sharing
sharing: build ## What seven related images put into one store (needs COLDPRESS_CORPUS)
	tools/sharing.sh

.PHONY: compression
compression: build ## Stored bytes and time of each codec (needs COLDPRESS_CORPUS)
	tools/compression.sh

.PHONY: bench
bench: build test-tools ## Whole conversions against the floor of this machine and against peers (needs COLDPRESS_CORPUS; 10 minutes)
	$(CARGO) build --release --locked --manifest-path tools/peers/Cargo.toml --target-dir target/peers
	$(CARGO) install --locked --quiet mkext4 --example mkfs --root target/peers/mkext4
	$(CARGO) bench --locked --bench whole

.PHONY: instructions
instructions: build ## Instructions of a small conversion against those of the last release (needs valgrind)
	tools/instructions.sh

.PHONY: bench-upload
bench-upload: build test-tools ## Uploads to a Ceph gateway beside a bare client (needs root for the gateway; 10 minutes)
	$(CARGO) bench --locked --bench upload --no-run
	tools/bench-upload.sh

.PHONY: bench-parts
bench-parts: ## The parts of a conversion, timed: packing, keys, sealing
	$(CARGO) bench --locked --bench parts

.PHONY: test-corpus
test-corpus: build ## Every image of the corpus against umoci, GNU tar, mkext4 and ext4-view (needs COLDPRESS_CORPUS and root; 15 minutes)
	tools/test-corpus.sh

.PHONY: kills
kills: test-tools ## Conversions killed at 200 random moments, 50 full disks, 50 removed stores (needs root; 2 minutes)
	COLDPRESS_KILLS=200 $(CARGO) nextest run --locked --release -E 'test(kills::)'

.PHONY: mutants
mutants: test-tools ## Every mutant of fs, crypto, manifest and convert against all tests (needs cargo-mutants and root; 10 hours)
	if command -v cargo-mutants >/dev/null; then $(CARGO) mutants --output target; else echo "cargo-mutants is missing: cargo install cargo-mutants"; exit 1; fi

.PHONY: big
big: build test-tools ## Memory for a million files, a million in one directory, and 10 GiB (needs 30 GiB of disk; 10 minutes)
	tools/big.sh

.PHONY: fuzz
fuzz: ## Fuzz each decoder for FUZZ_SECONDS (default 60) a target; findings in fuzz/artifacts (needs cargo-fuzz)
	for target in $$(ls fuzz/fuzz_targets | sed 's/\.rs$$//'); do \
	    mkdir -p target/fuzz-corpus/$$target; \
	    RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/target/fuzz $(CARGO) fuzz run --sanitizer none $$target \
	        $(CURDIR)/target/fuzz-corpus/$$target $(CURDIR)/fuzz/corpus/$$target \
	        -- -max_total_time=$${FUZZ_SECONDS:-60} -max_len=65536 || exit 1; done
