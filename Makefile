# make test, make demo, make check: each sets itself up first, in .venv. Needs Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: .venv demo test test-all lint check fmt docs bench zoo fuzz hostile constraints sbom dist kills clean
.DEFAULT_GOAL := check

.venv: .venv/dev.stamp

.venv/dev.stamp: pyproject.toml constraints.txt
	$(call install,dev)

.venv/demo.stamp: pyproject.toml constraints.txt
	$(call install,demo)

# A marker stands while pip works, so that a set-up that was killed is started over; only success leaves a stamp.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mipp needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there')."; \
	  echo "Name another one, for example: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12"; exit 1; } >&2
	@if [ -e .venv/unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --clear .venv; fi
	@echo "Setting up .venv with the '$(1)' extra (the first time: some minutes, most of them for torch) ..."
	@touch .venv/unfinished
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(1)]' \
	  || { rm .venv/unfinished; exit 1; }
	@rm .venv/unfinished
	@touch $@
endef

# Whoever has the development environment runs the demo in it; everybody else gets only what the demo needs.
demo: $(if $(wildcard .venv/dev.stamp),.venv/dev.stamp,.venv/demo.stamp)
	@$(BIN)/mipp demo

ON_DEVICE := tests/laws/test_device.py tests/laws/test_transfers.py

test: .venv
	@$(BIN)/python -m pytest -n 2
	@MIPP_TEST_DEVICE=simulated $(BIN)/python -m pytest -n 2 $(ON_DEVICE)

test-all: .venv
	@$(BIN)/python -m pytest -n 2 -m ""
	@MIPP_TEST_DEVICE=simulated $(BIN)/python -m pytest -n 2 -m "" $(ON_DEVICE)

lint: .venv
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check: lint test

fmt: .venv
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

docs: .venv
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv
	@for program in lenet_mnist memory growth estimators significance features tracing wide; do $(BIN)/python -m benchmarks.$$program; done
	@for program in defaults allocation levers rows latency handoff effort passes language $(addprefix accuracy_,table parts calibration curve labels); do \
	  $(BIN)/python -m benchmarks.$$(echo $$program | tr _ ' ') --weights $(WEIGHTS); done
	@$(BIN)/python -m benchmarks.tables

zoo: .venv
	@$(BIN)/python -m benchmarks.supported

fuzz: .venv
	@MIPP_FUZZ_CASES=5000 $(BIN)/python -m pytest tests/laws/test_fuzz.py

kills: .venv
	@$(BIN)/python -m tests.kills --kills 100

hostile: .venv
	@$(BIN)/python -m benchmarks.hostile

# The newest versions that fit, in an environment of its own; torch's is moved by hand, since PyPI's for Linux brings CUDA.
constraints:
	@$(PYTHON) -m venv --clear .venv-constraints
	@grep '^torch==' constraints.txt > .venv-constraints/torch.txt
	@.venv-constraints/bin/python -m pip install -qq -c .venv-constraints/torch.txt -e '.[dev,experiments]'
	@echo "# The versions that every install here uses: pip install -c constraints.txt -e '.[dev]'" > .venv-constraints/constraints.txt
	@.venv-constraints/bin/python -m pip freeze --exclude-editable > .venv-constraints/frozen.txt
	@sed 's/+cpu$$//' .venv-constraints/frozen.txt >> .venv-constraints/constraints.txt
	@mv .venv-constraints/constraints.txt constraints.txt
	@rm -r .venv-constraints

sbom: .venv
	@mkdir -p dist
	@$(PYTHON) -m venv --clear .venv-sbom
	@.venv-sbom/bin/python -m pip install -qq cyclonedx-bom
	@.venv-sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file dist/sbom.json $(BIN)/python
	@rm -r .venv-sbom

# Both are built; the wheel is installed where nothing else is, and tried outside of this folder; the extras resolve.
dist:
	@rm -f dist/torch_mipp-*
	@$(PYTHON) -m venv --clear .venv-dist
	@.venv-dist/bin/python -m pip install -qq build
	@.venv-dist/bin/python -m build --outdir dist .
	@$(PYTHON) -m venv --clear .venv-dist
	@.venv-dist/bin/python -m pip install -qq -c constraints.txt dist/torch_mipp-*.whl
	@for extra in demo export experiments; do \
	  .venv-dist/bin/python -m pip install -qq --dry-run -c constraints.txt "$$(echo dist/torch_mipp-*.whl)[$$extra]" \
	  || exit 1; done
	@cd .venv-dist && bin/python -c "import mipp; mipp.prune; print(mipp.__file__)" && bin/mipp --version
	@rm -r .venv-dist

tables: .venv
	@$(BIN)/python -m benchmarks.tables

clean:
	rm -rf .venv dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
