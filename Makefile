# `make` alone lists the targets. Needs make, and Python 3.11 or newer with its venv module.
.DEFAULT_GOAL := help
.PHONY: help paper test bench export readme docs clean lint quarto

PROFILE ?= mini
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
bin := .venv/bin
pip = $(bin)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
install-inputs := settings.ini constraints.txt setup.py pyproject.toml

# pip leaves bytecode to the first import: where it may not be written, every process would compile all of its libraries again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST) | while IFS=: read -r name text; do printf '%-8s%s\n' "$$name" "$$text"; done

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

lint: .venv/.installed-dev ## check the style of the code and the notebooks
	$(bin)/ruff check .

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
