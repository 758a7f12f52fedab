# You need Python 3.11 or newer and make. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Newer versions of pip read the second variable for the build's own packages.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q
# uv takes seconds where pip takes a minute. Where it fails pip is tried, which knows pip's settings.
INSTALL = $(PIP) uv && $(BIN)/uv --native-tls pip install -q --python $(BIN)/python \
	-c constraints.txt -b constraints.txt -e $(1) || $(PIP) -e $(1)
OUT ?= client
OUT_SERVER ?= server
# Of some tests, as with ARGS="-k remote", either half may have none, which pytest calls 5.
MAY_BE_NONE = $(if $(ARGS),|| [ $$? = 5 ])
# What these build must not look for the jobs of this make, which are none of theirs.
ALONE = MAKEFLAGS= $(BIN)/pytest
# What the tests start by the hundred shares what is compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

# The LANG of the environment is a locale; only LANG=go after make is a language.
STUBS := $(if $(filter command,$(origin LANG)),$(LANG),python)
unexport LANG

.PHONY: help run test quick test-all interpreters polyglot installs demo bench dist stubs reference breaking format constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

run: .venv/server ## serve on port 50051 with memory buckets, a page and metrics on 9090; options: make run ARGS="--config limits.yaml"
	@OPENLIMIT_HTTP=$${OPENLIMIT_HTTP:-127.0.0.1:9090} exec $(BIN)/openlimit-server $(ARGS)

test: quick .venv/dev ## run all of them: quick, then what starts processes and servers
	$(BIN)/pytest -n 5 --dist loadfile tests/system $(ARGS) $(MAY_BE_NONE)

quick: .venv/dev ## run the checks, and the tests of what needs no processes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python -m protos.breaking
	@# The types are checked beside the tests, since that takes as long.
	$(BIN)/mypy & types=$$!; \
	$(BIN)/pytest -n auto --dist loadfile tests/unit tests/contracts tests/properties $(ARGS) $(MAY_BE_NONE); \
	tests=$$?; wait $$types && exit $$tests

test-all: .venv/dev ## what needs more: many processes, then the next three at once; as root on Debian
	@# Shares and waits are measured, so nothing else runs meanwhile. The rest builds and waits a lot.
	$(BIN)/pytest tests/sharing tests/attacks --timeout 1200 $(ARGS) $(MAY_BE_NONE)
	$(BIN)/pytest -n 5 --dist loadfile tests/operations $(ARGS) $(MAY_BE_NONE)
	$(MAKE) --jobs 3 --keep-going --output-sync=target interpreters polyglot installs

interpreters: .venv/dev ## much of the suite on other versions of Python
	$(ALONE) tests/interpreters --timeout 1200 $(ARGS) $(MAY_BE_NONE)

polyglot: .venv/dev ## build the clients in Go, TypeScript, Java and Rust, and run them against a server
	$(ALONE) tests/polyglot --timeout 1200 $(ARGS) $(MAY_BE_NONE)

installs: .venv/dev ## fresh installations, the Helm chart and the image; needs Go
	$(ALONE) tests/installs tests/deploy --timeout 1200 $(ARGS) $(MAY_BE_NONE)

demo: .venv/dev ## workers against a strict provider, without and with the limiter
	@$(BIN)/python -m examples.demo

bench: .venv/dev ## measure; ARGS=--record keeps the results in benchmarks/results/
	@$(BIN)/python -m benchmarks $(ARGS)

dist: .venv/dev ## build wheel and sdist into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

stubs: stubs-$(STUBS) ## generate the stubs from protos/ and server/protos/, or LANG=go|node|java|rust those of its example

stubs-python: .venv/dev
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(OUT) --pyi_out=$(OUT) --grpc_python_out=$(OUT) \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(OUT) \
		$(patsubst protos/%,%,$(wildcard protos/openlimit/v1/*.proto))
	$(BIN)/python -m grpc_tools.protoc -I server/protos --python_out=$(OUT_SERVER) --pyi_out=$(OUT_SERVER) \
		$(patsubst server/protos/%,%,$(wildcard server/protos/openlimit_server/*/*.proto))

stubs-go: .venv/dev # to examples/go/gen
	cd examples/go && $(CURDIR)/$(BIN)/buf generate

stubs-node: # to examples/typescript/src/generated
	cd examples/typescript && npm install --no-audit --no-fund && npm run stubs

stubs-java: # to examples/java/target/generated-sources
	cd examples/java && mvn -q -B generate-sources

stubs-rust: # to examples/rust/target/debug/build/*/out
	cd examples/rust && cargo build -j1

stubs-%:
	@echo "make stubs has no LANG=$*: it is go, node, java or rust; without LANG it is Python" >&2; exit 2

reference: .venv/dev ## write docs/reference.md from the comments of protos/
	$(BIN)/python -m protos.reference

breaking: .venv/dev ## say what in protos/ breaks clients of the last release
	$(BIN)/python -m protos.breaking

format: .venv/dev ## format and sort imports
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

constraints: ## take the newest versions that fit together
	rm -rf .venv/fresh && $(PYTHON) -m venv .venv/fresh && .venv/fresh/bin/pip install -q '.[dev]'
	.venv/fresh/bin/pip freeze --exclude openlimitHW > constraints.txt && rm -rf .venv/fresh

clean: ## remove what the other targets made
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/server: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(call INSTALL,'.[server,redis,offline]')
	@touch $@

.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(call INSTALL,'.[dev]')
	@touch $@ .venv/server
