# What each command needs, it installs: Python's packages into .venv, cargo's tools into .tools.
# Needed beforehand: Rust 1.95 with clippy and rustfmt, a C compiler, Python 3.11 with venv.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := .tools/cargo-deny-$(CARGO_DENY_VERSION)

# Everything that is started listens on 127.0.0.1, which no proxy reaches.
export NO_PROXY := 127.0.0.1,localhost

.PHONY: help
help: ## List the commands
	@sed -nE 's/^([a-z]+):.* ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: $(VENV)/installed ## Run the function on a local EC2 and show what becomes of every instance
	@PATH="$$PWD/$(VENV)/bin:$$PATH" exec $(VENV)/bin/python tests/demo.py

.PHONY: test
test: $(VENV)/installed ## Pass every test
	cargo test --workspace --locked

.PHONY: check
check: fmt lint doc deny test ## All that CI checks: format, lints, documentation, dependencies, tests

.PHONY: fmt
fmt: ## Check the format
	cargo fmt --all --check

.PHONY: lint
lint: ## Run clippy
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: doc
doc: ## Build the documentation of the code
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

.PHONY: deny
deny: $(CARGO_DENY) ## Check licences, bans and sources of the dependencies
	.tools/bin/cargo-deny --locked check bans licenses sources

.PHONY: advisories
advisories: $(CARGO_DENY) ## Check the dependencies against the RustSec database, which is fetched from GitHub
	.tools/bin/cargo-deny --locked check advisories

.PHONY: snapshots
snapshots: $(VENV)/installed ## Write the snapshots anew after a change of answers or samples; read the difference
	INSTA_UPDATE=always cargo test --locked --test it samples

.PHONY: clean
clean: ## Remove all that was built or installed here
	rm -rf target $(VENV) .tools

$(VENV)/installed: tests/requirements.txt
	@command -v $(PYTHON) > /dev/null || { echo "install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || { echo "install Python's venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

$(CARGO_DENY):
	cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --debug --root .tools
	touch $@
