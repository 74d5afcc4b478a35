# Everything a person or a CI run does with Tidegate starts here. `make` alone lists the targets.
#
# Only /bin/sh, make and Debian's own /usr/bin/python3 are assumed; `make setup` installs the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
PY := $(BIN)/python
PYTEST := $(PY) -m pytest
C_SOURCES = $(wildcard bpf_redirect/*.c bpf_redirect/include/*.h bpf_redirect/lib/*.h)
RUST_CRATES := proxylib/native deploy/cni
# Debian's own tool chain builds the native module and checks it.
check-rust test-rust: export PATH := /usr/bin:$(PATH)
# More of pytest's own options, e.g. `make test PYTEST_ARGS='-x -k http'`.
PYTEST_ARGS ?=
# Options of the benchmark, e.g. `make bench BENCH_ARGS='--quick --arms direct,l4'`; see docs/benchmark.md.
BENCH_ARGS ?=

.PHONY: help setup setup-demo demo test test-unit test-rust test-root test-kafka test-kubernetes check check-python check-c check-generated check-rust bench bench-kafka golden manifests fuzz soak lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; do printf '  \033[1m%-16s\033[0m %s\n' "$$name" "$$text"; done

setup: ## install what is missing (apt, .venv) and leave .venv/bin/tidegate
	@deploy/setup/setup.sh

setup-demo:
	@deploy/setup/setup.sh demo

demo: setup-demo ## show policy at work between network namespaces; exits 0 only if every verdict is right
	@deploy/setup/as-root.sh $(PY) -m deploy.demo

test: setup ## run every test but the Kubernetes and Kafka suites (those that need root when run as root)
	@$(MAKE) --no-print-directory test-rust
	$(PYTEST) --ignore=tests/kubernetes --ignore=tests/kafka $(PYTEST_ARGS)

test-rust: ## run the native module's own tests
	for crate in $(RUST_CRATES); do (cd $$crate && cargo test --quiet --offline --locked); done

test-unit: setup ## run the tests that need neither root nor Envoy
	$(PYTEST) -m 'not root and not envoy' $(PYTEST_ARGS)

test-root: setup ## run only the tests that need root: BPF programs, network namespaces; a skip is a failure
	@deploy/setup/as-root.sh env TIDEGATE_CI=1 $(PYTEST) -m root --ignore=tests/kubernetes --ignore=tests/kafka $(PYTEST_ARGS)

test-kafka: setup ## run the Kafka suite against Apache Kafka (Java, from Maven Central), as root
	@deploy/setup/as-root.sh deploy/setup/kafka.sh
	@deploy/setup/as-root.sh env TIDEGATE_CI=1 $(PYTEST) tests/kafka $(PYTEST_ARGS)

test-kubernetes: setup ## run the Kubernetes suite against a real API server, which is built first (minutes, once)
	@deploy/setup/kubernetes.sh >/dev/null
	@deploy/setup/as-root.sh env TIDEGATE_CI=1 $(PYTEST) tests/kubernetes $(PYTEST_ARGS)

check: setup check-python check-c check-generated check-rust ## run every check that needs no root: formatting, lint, types, layers, generated files
	@echo 'check: ok'

check-python:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

check-c:
	$(if $(C_SOURCES),clang-format --dry-run -Werror $(C_SOURCES),@echo 'check-c: no C sources yet')

# Golden files and the ABI header against their sources: both are tests, run here so that drift has a name of its own.
check-generated:
	@deploy/setup/pytest-some.sh tests/golden tests/unit/bpf_redirect tests/unit/proxylib -k 'golden or drift or abi or layout'

check-rust:
	for crate in $(RUST_CRATES); do (cd $$crate && cargo fmt --check && cargo clippy --quiet --offline --locked --all-targets -- -D warnings); done

bench: setup ## measure Tidegate against no proxy, one Envoy, TPROXY and sidecars; BENCH_ARGS=--quick for a first look
	@deploy/setup/as-root.sh $(PY) -m bench $(BENCH_ARGS)
	$(if $(filter-out --quick,$(BENCH_ARGS)),,@deploy/setup/as-root.sh $(PY) -m bench.dns $(BENCH_ARGS))

manifests: setup ## write the CRDs, manifests and the Helm chart anew from deploy/kubernetes; review the diff
	$(PY) -m deploy.kubernetes

bench-kafka: setup ## measure Kafka through Tidegate against one plain Envoy and direct
	@deploy/setup/as-root.sh $(PY) -m bench.kafka

golden: setup ## rewrite the golden files; review the diff
	TIDEGATE_GOLDEN_REWRITE=1 $(PYTEST) tests/golden $(PYTEST_ARGS)

fuzz: setup ## run the property tests for long (FUZZ_EXAMPLES each, default 20000), then the coverage-guided ones (FUZZ_SECONDS)
	TIDEGATE_HYPOTHESIS_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(PYTEST) tests/property $(PYTEST_ARGS)
	$(PY) -m tests.fuzz.dns -max_total_time=$${FUZZ_SECONDS:-60} -print_final_stats=1

soak: ## run churn and load for hours and watch for leaks
	@deploy/setup/not-built.sh tests/soak 'the soak run'
	@deploy/setup/as-root.sh $(PYTEST) tests/soak $(PYTEST_ARGS)

lock: ## resolve requirements/*.in anew into the hashed requirements/*.txt
	@deploy/setup/lock.sh

clean: ## remove the venv and everything generated
	rm -rf .venv build target *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
