# `make` alone lists the targets. Needs make, and Python 3.11 or newer with its venv module.
.DEFAULT_GOAL := help
.PHONY: help paper test bench export readme docs clean lint quarto wheel-check

PROFILE ?= mini
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
bin := .venv/bin
pip = $(bin)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
install-inputs := settings.ini constraints.txt setup.py pyproject.toml

# pip leaves bytecode to the first import: where it may not be written, every process would compile all of its libraries again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | while IFS=: read -r name text; do printf '%-12s%s\n' "$$name" "$$text"; done

paper: .venv/.installed ## reproduce every exhibit of a profile and write the report (PROFILE=mini)
	$(bin)/xlingtox reproduce --profile $(PROFILE)

test: .venv/.installed-dev ## run every notebook, then the tests that take seconds (the long ones: pytest -m slow)
	OMP_NUM_THREADS=1 $(bin)/nbdev-test --n-workers 2 --do-print --timing
	$(bin)/python -m pytest -m "not slow" --numprocesses 2 --dist worksteal

bench: .venv/.installed ## measure speed against the plain way of doing the same
	$(bin)/python -m benchmarks

export: .venv/.installed-dev ## write xlingtox/ and README.md from the notebooks, and clean them
	$(bin)/nbdev-export
	$(bin)/nbdev-clean
	$(bin)/nbdev-clean --fname paper
	$(MAKE) --no-print-directory readme

# README.md is nbs/index.ipynb, with its links as they are seen from above nbs/.
readme: .venv/.installed-dev
	@$(bin)/jupyter nbconvert --log-level ERROR --to markdown --stdout nbs/index.ipynb | \
		sed -e 's#](images/#](nbs/images/#; s#](\([0-9][0-9]_[a-z]*/\|essays/\)#](nbs/\1#g; s#](\.\./#](#g' > README.md

docs: quarto .venv/.installed-dev ## build the documentation site in _docs (needs Quarto)
	$(bin)/nbdev-docs

lint: .venv/.installed-dev ## check the style of the code and the notebooks, and the types of the package
	$(bin)/ruff check .
	$(bin)/mypy

# The wheel that users get, tried where nothing of this checkout is: WHEEL=FILE, or one that is built here.
wheel-check: .venv/bin/pip ## install the wheel into an empty environment, and try it there
	rm -rf build/clean && mkdir -p build/clean
	test -n "$(WHEEL)" || $(bin)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/clean .
	$(PYTHON) -m venv build/clean/venv
	build/clean/venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt $(or $(abspath $(WHEEL)),build/clean/*.whl)
	cd build/clean && unset PYTHONPATH && venv/bin/python -c 'import xlingtox; print(xlingtox.__version__); assert "site-packages" in xlingtox.__file__'
	cd build/clean && unset PYTHONPATH && venv/bin/xlingtox doctor
	cd build/clean && unset PYTHONPATH && venv/bin/xlingtox reproduce --dry-run > plan && tail -n 3 plan
	cd build/clean && unset PYTHONPATH && venv/bin/xlingtox miniatures list > models && grep mgpt models

clean: ## remove .venv, runs and what the builds left; the cache of trained models stays
	rm -rf .venv runs build dist _docs _proc *.egg-info .pytest_cache .ruff_cache .snakemake paper/.snakemake
	find . -name .git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
	@echo "Kept: the trained models in $${XLINGTOX_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/xlingtox}"

quarto:
	@command -v quarto >/dev/null || { echo "make docs needs Quarto, which is not on the PATH: https://quarto.org/docs/get-started/" >&2; exit 1; }

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "xlingtox needs Python 3.11 or newer, found neither as python3.11 nor as python3; or say PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# A stamp newer than the files that decide what is installed: a second `make` does not ask pip.
.venv/.installed: $(install-inputs) | .venv/bin/pip
	@echo "Installing xlingtox into .venv (minutes the first time)"
	@$(pip) --editable .
	@touch $@

.venv/.installed-dev: $(install-inputs) | .venv/bin/pip
	@echo "Installing xlingtox and its development tools into .venv (minutes the first time)"
	@$(pip) --editable '.[dev]'
	@touch .venv/.installed $@
