# What each command needs, it installs: Python's packages into .venv, other tools into .tools.
# Needed beforehand: Rust 1.95 with clippy and rustfmt, a C compiler, Python 3.11 with venv, Node.js 20.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
# Once .venv exists, its Python is taken, so that PYTHON need not be named again.
FOUND_PYTHON = $(or $(wildcard $(VENV)/bin/python),$(PYTHON))
CARGO_DENY_VERSION := 0.20.2
MINISTACK := .tools/ministack
NODE_MODULES := infra/node_modules
RIVALS := .tools/rivals
HOST := $(shell rustc -vV 2> /dev/null | sed -n 's/^host: //p')
CARGO_DENY := .tools/cargo-deny-$(CARGO_DENY_VERSION)

# Everything that is started listens on 127.0.0.1, which no proxy reaches.
LOCAL := 127.0.0.1,localhost
COMMA := ,
# What is there stays, and * is everything only where it is alone. Some programs read the upper case, Python the lower case first.
with_local = $(if $(filter *,$(1)),*,$(if $(findstring $(LOCAL),$(1)),$(1),$(if $(1),$(1)$(COMMA))$(LOCAL)))
export NO_PROXY := $(call with_local,$(or $(NO_PROXY),$(no_proxy)))
export no_proxy := $(call with_local,$(or $(no_proxy),$(NO_PROXY)))
export SAM_CLI_TELEMETRY := 0

.PHONY: help
help: ## List the commands
	@sed -nE 's/^([a-z]+):.* ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: rust
rust:
	@command -v cargo > /dev/null || { echo "install Rust 1.95 with clippy and rustfmt, as by rustup" >&2; exit 1; }
	@command -v cc > /dev/null || { echo "install a C compiler (on Debian: apt-get install build-essential)" >&2; exit 1; }

.PHONY: python
python:
	@$(FOUND_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { echo "install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(FOUND_PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "install Python's venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; }

.PHONY: demo
demo: rust python ## Run the function on a local EC2 and show what becomes of every instance
	@echo "Building: the first time takes some minutes, since the SDK for EC2 is large"
	@$(MAKE) --no-print-directory $(VENV)/cargo-lambda & tools=$$!; trap 'kill $$tools 2> /dev/null || true' EXIT; \
		cargo build --locked; wait $$tools
	@PATH="$$PWD/$(VENV)/bin:$$PATH" exec $(VENV)/bin/python tests/demo.py

.PHONY: test
test: rust $(VENV)/installed $(MINISTACK)/installed $(NODE_MODULES)/installed ## Pass every test, of the function and of the templates, which it deploys to an emulator
	cargo test --workspace --locked
	cargo build --package local-ec2 --locked
	cd infra && npm run --silent check && npm test --silent
	cd tests/infra && PYTHONDONTWRITEBYTECODE=1 ../../$(VENV)/bin/python -m pytest

.PHONY: check
check: fmt lint doc deny test ## All that CI checks: format, lints, documentation, dependencies, tests

.PHONY: fmt
fmt: ## Check the format
	cargo fmt --all --check
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	cargo fmt --check --manifest-path benches/stand/Cargo.toml

.PHONY: lint
lint: ## Run clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy $(BENCH) --all-targets -- -D warnings

.PHONY: doc
doc: ## Build the documentation of the code
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

.PHONY: deny
deny: $(CARGO_DENY) ## Check licences, bans and sources of the dependencies
	.tools/bin/cargo-deny --locked check bans licenses sources
	.tools/bin/cargo-deny --locked --manifest-path tests/fuzz/Cargo.toml --config .deny.toml check licenses sources
	.tools/bin/cargo-deny --locked --manifest-path benches/stand/Cargo.toml --config .deny.toml check licenses sources

.PHONY: advisories
advisories: $(CARGO_DENY) ## Check the dependencies against the RustSec database, which is fetched from GitHub
	.tools/bin/cargo-deny --locked check advisories

# The one release build: SAM, the CDK and the benchmarks take it, or share its folder, profile and flags.
# The folder of binaries is named, so that it is this one whatever target folder cargo is set to.
ARCHITECTURE ?= x86_64
LAMBDA_BUILD = PATH="$$PWD/$(VENV)/bin:$$PATH" cargo lambda build --release --locked --target $(ARCHITECTURE:arm64=aarch64)-unknown-linux-gnu.2.26 --lambda-dir target/lambda

.PHONY: package
package: rust $(VENV)/installed ## Build the zip for Lambda, which needs glibc 2.26 to run, and its template, for ARCHITECTURE=x86_64 or arm64
	@$(VENV)/bin/python infra/deploy/build.py $(ARCHITECTURE)
	$(LAMBDA_BUILD) --bin imds-enforcer
	@$(VENV)/bin/python infra/deploy/package.py target/lambda/imds-enforcer target/imds-enforcer.zip $(ARCHITECTURE)
	@$(VENV)/bin/python infra/deploy/sam.py target/imds-enforcer.zip target/template.json target/cloudformation.json

.PHONY: deploy
deploy: rust $(VENV)/installed ## Build and deploy the stack: AlarmEmail=… Mode=observe, or any other parameter, Regions=us-east-1,…
	@$(VENV)/bin/python infra/deploy/deploy.py

.PHONY: organization
organization: rust $(VENV)/installed ## Publish and deploy the organization's stack set: OrganizationId=o-… OrganizationalUnitIds=ou-… Regions=us-east-1,…
	@$(VENV)/bin/python infra/deploy/organization.py

.PHONY: hub
hub: $(VENV)/installed ## Deploy the hub of an organization: OrganizationId=o-… AlarmEmail=… ResultEmail=… Region=…
	@$(VENV)/bin/python infra/deploy/hub.py

.PHONY: guardrails
guardrails: $(VENV)/installed ## Show the policies of an organization that keep violators out, and deploy them: TargetIds=ou-… RoleDelivery=on …
	@$(VENV)/bin/python infra/deploy/guardrails.py

.PHONY: destroy
destroy: $(VENV)/installed ## Delete the stack, in Regions=us-east-1,…; its log and its dead-letter queue stay
	@$(VENV)/bin/python infra/deploy/destroy.py

# What cargo fuzz passes to rustc; the address sanitizer, which needs a nightly one, is not among it.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
	-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: rust ## Fuzz what reads events, for FUZZ_SECONDS=60
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --locked --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --target $(HOST)
	mkdir -p target/fuzz/found
	target/fuzz/$(HOST)/release/event -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=512 -max_len=65536 \
		-dict=tests/fuzz/event.dict -artifact_prefix=target/fuzz/ -print_final_stats=1 \
		target/fuzz/found tests/fuzz/corpus/event events

SOAK_SECONDS ?= 180

.PHONY: soak
soak: package ## Run the packaged binary under events and faults, for SOAK_SECONDS=180
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_BINARY=$(CURDIR)/target/lambda/imds-enforcer/bootstrap \
		cargo test --locked --test it soak -- --ignored --nocapture

BENCH := --locked --manifest-path benches/stand/Cargo.toml --target-dir target/bench-stand

.PHONY: bench
bench: package $(RIVALS)/installed ## Measure what the function costs, next to others, and write benches/results
	$(LAMBDA_BUILD) --example sdk-alone
	@$(VENV)/bin/python infra/deploy/package.py target/lambda/sdk-alone target/sdk-alone.zip $(ARCHITECTURE)
	cargo build --release $(BENCH)
	cargo bench $(BENCH) --bench micro
	target/bench-stand/release/bench . $(RIVALS)/bin/python "$$($(RIVALS)/bin/python -m certifi)"

.PHONY: snapshots
snapshots: $(VENV)/installed ## Write the snapshots anew after a change of answers or samples; read the difference
	INSTA_UPDATE=always cargo test --locked --test it samples

.PHONY: clean
clean: ## Remove all that was built or installed here
	rm -rf target $(VENV) .tools infra/.aws-sam $(NODE_MODULES) infra/cdk/cdk.out

# What the demonstration needs of it, so that it need not wait for the rest.
$(VENV)/cargo-lambda: tests/requirements.txt | python
	$(FOUND_PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint $< cargo-lambda
	touch $@

$(VENV)/installed: $(VENV)/cargo-lambda
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	touch $@

$(MINISTACK)/installed: tests/infra/ministack.txt
$(RIVALS)/installed: benches/rivals/requirements.txt
$(MINISTACK)/installed $(RIVALS)/installed: | $(VENV)/cargo-lambda
	$(VENV)/bin/python -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(NODE_MODULES)/installed: infra/package-lock.json
	@command -v npm > /dev/null || { echo "install Node.js 20 or newer, with npm" >&2; exit 1; }
	cd infra && npm ci --no-audit --no-fund
	touch $@

$(CARGO_DENY):
	cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --debug --root .tools
	touch $@
