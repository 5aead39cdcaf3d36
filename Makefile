# Each target sets up what it needs: a .venv with everything from the package index, the first time.
#
#   make demo    counts the Python standard library on this machine, as some hundred to two thousand tasks, one for each file;
#                CLUSTER=1 does it on a cluster of processes
#   make up      runs a scheduler and its workers; APP=module:app names your own
#   make test    runs the tests; ARGS="-k ring" is handed to pytest
#   make check   lints and checks the types
#   make bench   measures; BENCH=latency is one of throughput latency timers ticks memory crash
#   make sim     simulates whole clusters with faults, SEEDS=200 of them; failing cases go to sim-failures/
#   make calendar compares the ticks with a reference that walks every minute, at every clock change of every zone; takes a while
#   make year    simulates a year of a thousand schedules with a crash every week; ARGS="--schedules 100 --days 90" for less
#   make chaos   kills, stops and restarts parts of a real cluster under traffic; ARGS="--minutes 2 --seed 7 --repeat 10"
#   make postgres runs the store's tests on PostgreSQL 14 to 18, fetched by npm; ARGS="14 16 --keep FOLDER" for less, and to keep them
#   make planted plants bugs in the code, one at a time, and says how many seeds each could hide; ARGS="fence cancel" names some
#
# PYTHON=/path/to/python3 chooses the interpreter (3.11 or newer) when .venv is made.

PYTHON ?=
APP ?= examples.hello:app
BENCH ?= all
SEEDS ?= 200
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo up test check bench sim calendar year chaos postgres planted clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(READY): pyproject.toml .ci/venv
	@sh .ci/venv "$(PYTHON)"

demo: $(READY)
	@$(BIN)/python examples/census/run.py $(if $(CLUSTER),--cluster) $(ARGS)

up: $(READY)
	@$(BIN)/foliot up --app $(APP) $(ARGS)

test: $(READY)
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/foliot bench $(BENCH) $(ARGS)

sim: $(READY)
	@$(BIN)/foliot sim run --seeds $(SEEDS) --check-determinism 5 $(ARGS)

calendar: $(READY)
	@$(BIN)/python -m foliot.tests.actors.calendar_campaign $(ARGS)

year: $(READY)
	@$(BIN)/python -m foliot.simulations.year $(ARGS)

chaos: $(READY)
	@$(BIN)/python -m foliot.tests.chaos.run $(ARGS)

postgres: $(READY)
	@$(BIN)/python -m foliot.tests.stores.postgres_versions $(ARGS)

planted: $(READY)
	@$(BIN)/python -m foliot.tests.simulations.planted.run $(ARGS)

clean:
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
