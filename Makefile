# Everything that this project does, by name. Needs Rust, a C compiler, make, perl, Java 17 or later and Maven; the rest is
# fetched. `make` alone lists the targets.

CARGO ?= cargo
# The folder of cargo's release binaries. A second cargo call for other packages would resolve other features, and compile the
# dependencies again. So one call builds all binaries that a target needs, and the target then runs them directly.
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release
# The folder of the tools that checks download once.
TOOLS = $(abspath $(or $(CARGO_TARGET_DIR),target)/tools)
# `make demo KEEP=1` continues until Ctrl-C.
KEEP ?=
# `make demo DEMO_SCALE=0.2` shortens every act to a fifth, for trials.
DEMO_SCALE ?= 1

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: tools
tools:
	@missing=0; \
	need() { command -v "$$1" >/dev/null 2>&1 || { echo "missing: $$1 ($$2)" >&2; missing=1; }; }; \
	need $(CARGO) "Rust, from rustup.rs"; need cc "a C compiler: apt-get install gcc"; \
	need perl "apt-get install perl"; \
	need java "Java 17 or later: apt-get install openjdk-17-jre-headless"; need mvn "apt-get install maven"; \
	exit $$missing

.PHONY: demo
demo: tools ## Real Kafka, real Postgres, a fleet, in 6 minutes: two experiments, three services, a verdict; KEEP=1
	$(CARGO) build --release --locked -p tidegate -p demo
	KEEP=$(KEEP) DEMO_SCALE=$(DEMO_SCALE) $(RELEASE)/demo

.PHONY: redraw
redraw: ## The demo's plots and report again, from the raw files in target/demo
	$(CARGO) build --release --locked -p tidegate -p demo
	$(RELEASE)/demo --redraw

.PHONY: demo-docs
demo-docs: ## Takes the last full `make demo` into docs/demo and README.md: raw files, plots, figures
	$(CARGO) build --release --locked -p tidegate -p demo
	$(RELEASE)/demo --publish docs/demo

.PHONY: test
test: tools ## All tests: pure crates, simulation, the daemon on the real servers, the page in a real browser
	@# Both cargo calls have the same packages, so the second one compiles nothing. The first one only builds. So it shows its
	@# progress at once, and doesn't wait for the browser's download.
	$(CARGO) test --workspace --locked --no-run
	tests/browser/run.sh --install
	@# Most integration tests wait for events of servers, so more of them than cores run at once.
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-8} $(CARGO) test --workspace --locked

# The number of minutes for which two daemons per pipeline write the same keys.
MINUTES ?= 5
.PHONY: contention
contention: tools ## Upsert and aggregate, two daemons each on the same keys, for MINUTES; deadlocks, retries, and the end
	MINUTES=$(MINUTES) $(CARGO) test --locked --workspace --test it two_daemons_on_the_same_keys -- --nocapture

.PHONY: bench
bench: tools ## Micro-benches, then the drain against a bare COPY
	$(CARGO) bench --locked -p tidegate-rows -p tidegate

# MINUTES=5, SEED=..., RATE=2000, PROTOCOL=cooperative, DAEMONS=3; SCENARIO=outage stops the database for MINUTES,
# SCENARIO=ledger holds a snapshot open for the same time, with PARTITIONS=1000. RECOVERY=2 is how many seconds after the database's
# return the first commit may come. The output of the campaign and of the daemons is kept in target/chaos.
.PHONY: chaos
chaos: tools ## A campaign of faults, and the record accounting at its end; MINUTES=30 SEED=7, or SCENARIO=outage MINUTES=10
	$(CARGO) build --release --locked -p tidegate -p chaos
	$(RELEASE)/chaos

# PROTOCOL=cooperative,eager,consumer, NAMES=derived,set, ROUNDS=5. The output is kept in target/chaos.
.PHONY: restarts
restarts: tools ## How long partitions stand still when a daemon ends, by SIGTERM and SIGKILL, and starts again
	$(CARGO) build --release --locked -p tidegate -p chaos
	SCENARIO=restarts PROTOCOL=$${PROTOCOL:-cooperative,eager,consumer} $(RELEASE)/chaos

.PHONY: planted
planted: ## Plants bugs in the protocol crate, one after the other: the simulation must find each
	crates/protocol/planted.py

# Changes each line of the protocol crate in every way that cargo-mutants knows. MUTANTS passes options, such as `--iterate`,
# which continues where the last run ended, or `--file claim_loop.rs`. The tests of bugs in the fakes are left out, because they
# say nothing about a changed crate.
.PHONY: mutants
mutants: ## Mutants of the protocol crate: a test must find each; needs `cargo install cargo-mutants`
	TIDEGATE_SEEDS=$${TIDEGATE_SEEDS:-1500} $(CARGO) mutants -p tidegate-protocol --output target $(MUTANTS) \
		-- --tests -- --skip planted_bug --skip a_wrong_word

# json, csv, avro, protobuf: any bytes as a value of the format. keys: any bytes as a key. values: JSON into columns of every type.
# mapping: any mapping.
TARGET ?= json
.PHONY: fuzz
fuzz: ## Fuzzes a TARGET of fuzz/ for MINUTES, 10 by default; needs `cargo install cargo-fuzz`
	mkdir -p fuzz/corpus/$(TARGET) fuzz/seeds/$(TARGET)
	$(CARGO) fuzz run -s none $(TARGET) fuzz/corpus/$(TARGET) fuzz/seeds/$(TARGET) -- \
		-max_total_time=$$(( 60 * $(or $(MINUTES),10) )) -max_len=4096 -timeout=10

.PHONY: valgrind
valgrind: tools ## The crate that calls librdkafka directly: its tests under valgrind, which is installed if it is missing
	crates/kafka-batch/valgrind.sh

.PHONY: deploy-check
deploy-check: ## Alerts and the dashboard by promtool, manifests for Kubernetes by their schemas, workflows by actionlint; needs Go
	deploy/check.sh
	deploy/kubernetes/check.sh
	[ -x $(TOOLS)/actionlint ] || GOBIN=$(TOOLS) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	$(TOOLS)/actionlint

.PHONY: deny
deny: ## Licences, bans and sources of every dependency; needs `cargo install cargo-deny`
	$(CARGO) deny --locked check bans licenses sources

.PHONY: advisories
advisories: ## Known vulnerabilities of every dependency; needs `cargo install cargo-deny` and the advisory database by git
	$(CARGO) deny --locked check advisories

# The oldest Rust that the project promises to support. Cargo.toml states it, and the image is built with it.
MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1.0/p' Cargo.toml)
.PHONY: msrv
msrv: ## Builds everything by the oldest Rust that Cargo.toml promises; needs rustup if another one is installed
	@# The installed Rust may be that version.
	@if rustc --version | grep -q '^rustc $(MSRV) '; then \
		$(CARGO) check --workspace --all-targets --locked; \
	else \
		{ rustup run $(MSRV) rustc --version || rustup toolchain install --profile minimal $(MSRV); } && \
		rustup run $(MSRV) cargo check --workspace --all-targets --locked; \
	fi

# The program must link the dynamic library libsasl2. Without the feature, it would not link it.
.PHONY: gssapi
gssapi: ## Builds the daemon with Kerberos, and checks that it is linked; needs libsasl2-dev and pkg-config
	$(CARGO) build --locked -p tidegate --features gssapi
	ldd $(dir $(RELEASE))debug/tidegate | grep libsasl2

.PHONY: install-check
install-check: tools ## The archive of `make dist`, and `cargo install`, in an empty Debian; needs root and debootstrap
	deploy/install-check.sh

# The commit of the older version, from which an upgrade must lose nothing: the first one with these migrations. Once there is a
# release, its tag replaces the commit.
UPGRADE_FROM ?= 6a5ca190bbd36e9bd8bce159474f626e42cc8557
.PHONY: upgrade-check
upgrade-check: tools ## Rolls two daemons from an older version to this one and back, under load; 0 lost, 0 twice
	rm -rf $(dir $(RELEASE))upgrade && mkdir -p $(dir $(RELEASE))upgrade/source
	git archive $(UPGRADE_FROM) | tar -x -C $(dir $(RELEASE))upgrade/source
	@# Build it in the same folder as this version, so that dependencies that both have are compiled once.
	$(CARGO) build --locked -p tidegate --manifest-path $(dir $(RELEASE))upgrade/source/Cargo.toml --target-dir $(dir $(RELEASE))
	mv $(dir $(RELEASE))debug/tidegate $(dir $(RELEASE))upgrade/tidegate
	TIDEGATE_OLD_PROGRAM=$(abspath $(dir $(RELEASE))upgrade/tidegate) \
		$(CARGO) test --locked --workspace --test it -- --ignored rolled_forward_and_back --nocapture

.PHONY: matrix
matrix: tools ## The core of the integration tests on every supported PostgreSQL and Kafka; PAIRS=13.22.0/2.8.2-zookeeper
	tests/matrix.py $(PAIRS)

.PHONY: dist
dist: ## The stripped release archive with checksums and its list of components; needs `cargo install cargo-cyclonedx`
	deploy/dist.sh

.PHONY: deb
deb: ## The Debian package, from what `make dist` made; needs `cargo install cargo-deb`
	$(CARGO) deb --no-build --no-strip --output $(dir $(RELEASE))dist/
	cd $(dir $(RELEASE))dist && sha256sum tidegate_*.deb >>SHA256SUMS

.PHONY: deb-check
deb-check: tools ## Installs the package into an empty Debian in a folder and drains with it; needs root and debootstrap
	deploy/debian/check.sh

.PHONY: image-check
image-check: tools ## Builds the image's file system without Docker and drains with it; needs root and debootstrap
	deploy/image-check.sh

.PHONY: book
book: ## The documentation as a book in target/book; needs python3, or compiles mdBook
	tools/book.sh

.PHONY: lint
lint: book ## Formatting, lints, the book, its links and its words; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps --locked
	@# The fuzz targets are no part of the workspace. `cargo check` links nothing, so it needs no libFuzzer, which is in C++.
	RUSTFLAGS='-D warnings' CUSTOM_LIBFUZZER_PATH=./none $(CARGO) check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check
	@# Build the whole workspace, as `make test` does, so that `make test` then compiles nothing again.
	$(CARGO) test --workspace --locked --test book --test config_doc --test words
