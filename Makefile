PYTHON ?= python3
ARGS ?=
MINUTES ?= 30
WORKERS ?= 4
BIN := .venv/bin
INSTALLED := .venv/.installed
RUNNABLE := .venv/.runnable

# Compiled once, not again by each process that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run quick test coverage check format bench fuzz soak migrate lock sbom matrix clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: $(RUNNABLE) ## serve on 127.0.0.1:8000, with an embedded PostgreSQL unless DATABASE_URL is set
	@exec $(BIN)/python -m service run

quick: $(INSTALLED) ## the tests that need no PostgreSQL and start no process
	@exec $(BIN)/python -m pytest -q -m quick $(ARGS)

test: $(INSTALLED) ## the whole test suite, on WORKERS=4 processes with a PostgreSQL each
	@exec $(BIN)/python -m pytest -n $(WORKERS) -m 'not soak' $(ARGS)

coverage: $(INSTALLED) ## the whole test suite, and the lines and branches of service/ it reaches
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) -m 'not soak' $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: $(INSTALLED) ## ruff, format check, mypy --strict, the order of imports
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## let ruff put the code in order
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(INSTALLED) ## measure in sixteen minutes; ARGS=--quick in about one, ARGS="against main" beside a commit
	@exec $(BIN)/python -m bench $(ARGS)

fuzz: $(INSTALLED) ## two minutes of schemathesis over the API's description
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@exec $(BIN)/python -m tests.openapi.fuzz $(ARGS)

soak: $(INSTALLED) ## MINUTES=30 with a fault every five seconds
	@exec $(BIN)/python -m tests.faults.soak $(MINUTES) $(ARGS)

migrate: $(INSTALLED) ## apply the migrations to DATABASE_URL
	@exec $(BIN)/python -m service migrate

lock: ## write requirements.lock and ops/build.lock anew, with `uv` from the path
	uv pip compile pyproject.toml --universal --python-version 3.11 --only-binary :all: --generate-hashes --upgrade --quiet --output-file requirements.lock
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | uv pip compile - --universal --python-version 3.11 --only-binary :all: --generate-hashes --upgrade --no-header --quiet --output-file ops/build.lock
	@exec $(MAKE) sbom

sbom: $(INSTALLED) ## write sbom.cdx.json, the contents of the lock in CycloneDX
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[sbom]'
	$(PYTHON) -m venv --clear --without-pip .venv/production
	$(BIN)/python -m pip --python .venv/production install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --requirement requirements.lock
	$(BIN)/cyclonedx-py environment .venv/production --pyproject pyproject.toml --output-reproducible --short-PURLs --output-file .venv/sbom.json
	@# The tool's own addresses say nothing about the service.
	$(BIN)/python -c 'import json; bill = json.load(open(".venv/sbom.json")); [each.pop("externalReferences", None) for each in bill["metadata"]["tools"]["components"]]; print(json.dumps(bill, indent=2, ensure_ascii=False))' > sbom.cdx.json

matrix: $(INSTALLED) ## a core of the tests on every Python and PostgreSQL found; ARGS=--all for the whole suite
	@exec $(BIN)/python -m tests.matrix $(ARGS)

clean: ## remove the virtual environment and caches, keep .data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

$(RUNNABLE): EXTRAS := embedded
$(INSTALLED): EXTRAS := test,check

# Each is a copy of the pyproject.toml that was installed: touching that file installs nothing.
$(INSTALLED) $(RUNNABLE): pyproject.toml
	@cmp -s $< $@ || cmp -s $< $(INSTALLED) || PYTHON="$(PYTHON)" sh .ci/install "$(EXTRAS)"
	@cp $< $@
