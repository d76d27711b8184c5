# make demo: train on the data that ships and show what was learned.   make test: every test.
PYTHON ?= python3
BIN := .venv/bin
PLUGINS := $(wildcard plugins/*)
INSTALLED := .venv/.installed

.PHONY: demo test lint format clean

demo: $(INSTALLED)
	rm -rf logs/all-five
	$(BIN)/lom train examples/all-five/run.yaml
	$(BIN)/lom report logs/all-five

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy lom_core $(wildcard plugins/*/src)
	$(BIN)/lint-imports
	@long=$$(git ls-files '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > 400'); \
	if [ -n "$$long" ]; then echo "files over 400 lines:"; echo "$$long"; exit 1; fi

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and pinned: any other request for it may bring gigabytes of CUDA along.
$(INSTALLED): pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,hub,wandb,tensorboard,emissions,probe,parquet]' $(PLUGINS:%=-e "./%[test]")
	touch $@

clean:
	rm -rf .venv logs .ci/venv .ci/wheels
