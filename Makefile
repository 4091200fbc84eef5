# coldpress: every command there is. `make` alone lists those for daily work (##), `make bench-help` the others (###).

SHELL := /bin/bash
CARGO ?= cargo
# Python's packages for tools/check_manifest.py.
VENV := target/venv
# No target uses the disk cache of this host, but where it names one of its own.
export COLDREAD_NO_CACHE ?= true

.PHONY: help
help: ## This list
	@awk -F ':.*[^#]## ' '/^[a-z-]+:.*[^#]## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bench-help
bench-help: ## The list of measurements and long tests
	@awk -F ':.*### ' '/^[a-z-]+:.*### / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: docs
docs: ## The documentation of the code, in target/doc
	$(CARGO) doc --locked --no-deps --document-private-items

.PHONY: build
build: ## The two programs, optimised, in target/release
	COLDPRESS_COMMIT="$$(git rev-parse HEAD 2>/dev/null)" $(CARGO) build --release --locked

.PHONY: demo
demo: build ## Convert a sample image that it makes, verify it, and read a file back (no root; everything under target/demo)
	tools/demo.sh target/release target/demo

.PHONY: test-tools
test-tools: ## Install what the tests need (Debian packages, cargo-nextest, Python packages; needs root for the first)
	tools/test-tools.sh $(VENV)

.PHONY: test
test: test-tools ## All tests; installs what it needs, and needs root for mounts
	@[ "$$(id -u)" = 0 ] || { echo "make test mounts block images: run it as root"; exit 1; }
	# Programs and servers by the dozen share two processors: what fails once is run once more, and then named as flaky.
	$(CARGO) nextest run --locked --no-fail-fast --retries 1 --features age
	# The examples in the documentation, which nextest does not run.
	$(CARGO) test --locked --features age --doc
	$(VENV)/bin/python tools/check_manifest.py --vectors testdata/vectors
	$(VENV)/bin/python tools/check_shards.py testdata/vectors/shards.json
	$(VENV)/bin/python tools/check_learned.py testdata/vectors/learned.json

.PHONY: test-long
test-long: build test-tools ### Store conformance suite and write-only conversions against Ceph RGW and Azurite; ten minutes with credentials that live for one (root; 16 minutes)
	tools/test-long.sh

.PHONY: check
check: ## Format, lints, documentation, licences, duplicate crates and sources of crates; says what it checks
	@echo "check 1 of 4: the format of all Rust files (cargo fmt)"
	@$(CARGO) fmt --all --check
	@echo "check 2 of 4: lints of programs, library, tests and benches, with the feature age (cargo clippy)"
	@$(CARGO) clippy --locked --all-targets --features age -- -D warnings
	@echo "check 3 of 4: documentation and its links (cargo doc)"
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	@echo "check 4 of 4: licences, bans and sources of all crates, but not advisories (cargo deny)"
	@command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install cargo-deny"; exit 1; }
	@$(CARGO) deny --locked check licenses bans sources
	@echo "check: all four hold"

.PHONY: sharing
sharing: build ### What seven related images put into one store (needs COLDPRESS_CORPUS)
	tools/sharing.sh

.PHONY: compression
compression: build ### Stored bytes and time of each codec (needs COLDPRESS_CORPUS)
	tools/compression.sh

.PHONY: bench
bench: build test-tools ### Whole conversions against the floor of this machine and against peers (needs COLDPRESS_CORPUS; 10 minutes)
	$(CARGO) build --release --locked --manifest-path tools/peers/Cargo.toml --target-dir target/peers
	$(CARGO) install --locked --quiet mkext4 --example mkfs --root target/peers/mkext4
	$(CARGO) bench --locked --bench whole

.PHONY: instructions
instructions: build ### Instructions of a small conversion against those of the last release (needs valgrind)
	tools/instructions.sh

.PHONY: bench-upload
bench-upload: build test-tools ### Uploads to a Ceph gateway beside a bare client (needs root for the gateway; 10 minutes)
	$(CARGO) bench --locked --bench upload --no-run
	tools/bench-upload.sh

.PHONY: bench-parts
bench-parts: ### The parts of a conversion, timed: packing, keys, sealing
	$(CARGO) bench --locked --bench parts

.PHONY: test-corpus
test-corpus: build ### Every image of the corpus against umoci, GNU tar, mkext4 and ext4-view; random layers against containerd (needs COLDPRESS_CORPUS and root; 15 minutes)
	tools/test-corpus.sh

.PHONY: bundle-corpus
bundle-corpus: build test-tools ### Real images as runtime bundles, started by runc: numpy computes, gunicorn answers HTTP (needs COLDPRESS_CORPUS and root; 1 minute)
	tools/bundle-corpus.sh

.PHONY: lying-servers
lying-servers: test-tools ### Stores and key services that lie, with those lies that only the clock ends (3 minutes)
	COLDPRESS_LYING_SERVERS=all $(CARGO) nextest run --locked -E 'test(lying_servers::)'

.PHONY: kills
kills: test-tools ### Conversions and mounts killed at 200 random moments each, 50 full disks, 50 removed stores, 50 power cuts (needs root; 8 minutes)
	COLDPRESS_KILLS=200 $(CARGO) nextest run --locked --release -E 'test(kills::) or test(power_cut::)'

.PHONY: mutants
mutants: test-tools ### Every mutant of fs, crypto, manifest and convert against all tests (needs cargo-mutants and root; 10 hours)
	if command -v cargo-mutants >/dev/null; then $(CARGO) mutants --output target; else echo "cargo-mutants is missing: cargo install cargo-mutants"; exit 1; fi

.PHONY: big
big: build test-tools ### Memory for a million files, a million in one directory, and 10 GiB (needs 30 GiB of disk; 10 minutes)
	tools/big.sh

.PHONY: bench-nbd
bench-nbd: build test-tools ### Warm reads, and writes, over NBD beside qemu-nbd serving the exported file (needs COLDPRESS_CORPUS; 4 minutes)
	tools/bench-nbd.sh

.PHONY: bench-doors
bench-doors: build test-tools ### Warm reads through every door, beside raw files and bare memory at the same doors; misses side by side (needs COLDPRESS_CORPUS and root; 4 minutes)
	$(CARGO) build --release --locked --examples
	tools/bench-doors.sh target/release

.PHONY: miss-costs
miss-costs: build test-tools ### A chunk from an S3 store on loopback through NBD, beside a plain GET of the same object (needs COLDPRESS_CORPUS; 1 minute)
	$(CARGO) build --release --locked --examples
	tools/miss-costs.sh target/release

.PHONY: soak
soak: build test-tools ### Random reads of every alignment and size through four doors at once against the file, for MINUTES (default 5; needs COLDPRESS_CORPUS and root); then the simulation of the read path for as long
	$(CARGO) build --release --locked --examples
	tools/soak.sh target/release
	COLDPRESS_SIMULATE=$${MINUTES:-5} $(CARGO) test --locked --features age --lib simulation::a_million -- --nocapture

.PHONY: cold-start
cold-start: build test-tools ### Starts from a store that takes 30 ms a request: first, second, near, cached, on another host, beside raw images (needs COLDPRESS_CORPUS, umoci and root; 15 minutes)
	$(CARGO) build --release --locked --example slow_s3
	python3 tools/cold_start.py target/release

.PHONY: serve-costs
serve-costs: build ### The time from the start of `coldread serve` to the first byte, and its memory for one image and for 100 (needs COLDPRESS_CORPUS)
	tools/serve-costs.sh target/release

.PHONY: demo-zone
demo-zone: build test-tools ### The whole chain once: store, key service, six cache servers of a zone, two hosts (root; everything under target/demo-zone)
	tools/demo-zone.sh target/release target/demo-zone

.PHONY: bench-zone
bench-zone: test-tools ### A chunk from the zone beside what it cannot do without; tails with a slow server, for 1, 2, 4+1 and 4+2 (10 minutes)
	CURVES=target/zone.csv $(CARGO) bench --locked --bench zone -- parts tail
	python3 tools/zone_picture.py target/zone.csv >docs/explanation/zone.svg

.PHONY: pictures
pictures: build test-tools ## Draw the pictures of the documents again, and check them (zone.svg needs bench-zone)
	python3 tools/pictures.py target/release

.PHONY: fs-suites
fs-suites: build test-tools ### pjdfstest and fsx on writable mounts, in memory and in a file (needs root; 3 minutes)
	tools/fs-suites.sh

.PHONY: incremental
incremental: build test-tools ### What a conversion costs where a cache knows most of it (needs COLDPRESS_CORPUS and 30 GiB of disk; 5 minutes)
	tools/incremental.sh

.PHONY: fuzz
fuzz: ## Fuzz each decoder for FUZZ_SECONDS (default 60) a target; findings in fuzz/artifacts (needs cargo-fuzz)
	for target in $$(ls fuzz/fuzz_targets | sed 's/\.rs$$//'); do \
	    mkdir -p target/fuzz-corpus/$$target; \
	    RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(CURDIR)/target/fuzz $(CARGO) fuzz run --sanitizer none $$target \
	        $(CURDIR)/target/fuzz-corpus/$$target $(CURDIR)/fuzz/corpus/$$target \
	        -- -max_total_time=$${FUZZ_SECONDS:-60} -max_len=65536 || exit 1; done
