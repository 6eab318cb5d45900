# Two commands do everything: `make lab` to learn, `make test` to check. `make help` lists the rest.
#
#   PYTHON=python3.12   the Python that .venv is made with (3.11 or newer)
#   CPU=1               PyTorch without CUDA's libraries; remembered until CPU=0
#   PORT=8889           JupyterLab's port

PYTHON ?= python3
PORT ?= 8888
PY := .venv/bin/python
SETUP = $(PYTHON) setup_env.py $(if $(CPU),$(if $(filter 0,$(CPU)),--no-cpu,--cpu))
QUIET = --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
SITE_PY := .venv-site/bin/python
SITE_PACKAGES := import sysconfig; print(sysconfig.get_path('purelib'))
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb notebooks/solutions/[0-9]*.ipynb))

# The tests run in two processes of one thread each, with tiny settings and the built-in images.
# They start many processes, each of which would compile torch again if bytecode was not kept.
TEST_ENV = DDPM_PRESET=ci DDPM_DATA=cartoons OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-slow notebooks images plane site site-test lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  options: PYTHON=python3.12  CPU=1 (no CUDA libraries)  PORT=8889"

setup:  ## create .venv with the pinned environment, if it is not there yet
	@command -v $(PYTHON) >/dev/null || \
	  { echo "[set-up] no $(PYTHON) here: install Python 3.11 or newer"; exit 1; }
	@$(SETUP)

lab: setup  ## open JupyterLab on notebooks/ (on this machine only, with a token)
	@exec $(PY) -m jupyterlab --ServerApp.root_dir=notebooks --ServerApp.ip=127.0.0.1 \
	  --ServerApp.port=$(PORT) $(QUIET) $(AS_ROOT) $(LAB)

PYTEST_CMD = $(TEST_ENV) $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
  --durations 10

test: setup  ## check a change: code, style, every notebook once (at most 900 CPU seconds)
	@$(PYTEST_CMD) -m "not slow" tests $(PYTEST)

test-slow: setup  ## the rest: types, notebooks and solutions in kernels, kills, many processes
	@$(PYTEST_CMD) -m slow --nbval-lax --nbval-current-env --nbval-cell-timeout 120 \
	  tests $(NOTEBOOKS) $(PYTEST)

notebooks: setup  ## run every notebook headless and keep the outputs
	@test -n "$(NOTEBOOKS)" || { echo "no notebooks in notebooks/"; exit 1; }
	@$(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False \
	  $(NOTEBOOKS)

images: setup  ## make every image that README.md shows
	@$(PY) -m tools.readme_images images/

plane:  ## make site/plane.html, a page that needs no server and no set-up: diffusion in the plane
	@$(PYTHON) -m tools.website.plane site/plane.html

site: .venv-site/ready  ## build site/: the notebooks as web pages, the plane, and the page that draws
	@$(SITE_PY) -m tools.website $(SITE)

site-test: .venv-site/ready  ## try site/ in a headless Chromium (that of the system, or playwright install)
	@$(SITE_PY) -m pytest -q -rs -p no:cacheprovider tests/web $(PYTEST)

# Sphinx in an environment of its own, which sees .venv's packages behind its own.
.venv-site/ready: requirements-site.txt | setup
	@echo "[set-up] making .venv-site"
	@$(PY) -m venv --clear --without-pip .venv-site
	@$(PY) -m uv pip install --quiet --python $(SITE_PY) --require-hashes -r requirements-site.txt
	@$(PY) -c "$(SITE_PACKAGES)" > "$$($(SITE_PY) -c "$(SITE_PACKAGES)")/lab.pth"
	@touch $@

lock: setup  ## renew the pinned requirements from pyproject.toml (needs the network)
	@$(PY) -m uv pip compile --quiet --upgrade --universal --generate-hashes --all-extras \
	  --python-version 3.11 --no-emit-index-url --custom-compile-command "make lock" \
	  pyproject.toml -o requirements.txt
	@$(PY) -m uv pip compile --quiet --upgrade --universal --generate-hashes -c requirements.txt \
	  --python-version 3.11 --no-emit-index-url --custom-compile-command "make lock" \
	  --group pyproject.toml:site -o requirements-site.txt

clean:  ## remove the environments and everything that tools left behind
	@rm -rf .venv .venv-site site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} + ; \
	  find . -name .ipynb_checkpoints -prune -exec rm -rf {} +
