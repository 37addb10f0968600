# `check` is what a change must pass here. For a change, continuous integration runs targets of this file and nothing else:
# those of `check`, and `isolated` and `lowest` for the packages that it affects, which install each of them anew.
PACKAGES := wam-backbone noisegate-gpn grpo-core robotwin-env noisegate-apps
SOURCES = $(if $(filter noisegate-apps,$(1)),apps/noisegate_apps,packages/$(1)/src)
TESTS = $(if $(filter noisegate-apps,$(1)),tests,packages/$(1))
UV_RUN := uv run --all-packages

.PHONY: check lint dependencies types test wheels clean isolated $(PACKAGES:%=isolated-%) importable \
  $(PACKAGES:%=importable-%) lock locked docs lowest $(PACKAGES:%=lowest-%) api release-dry-run

check: lint dependencies locked types importable wheels docs test

lint:
	$(UV_RUN) ruff check .
	$(UV_RUN) ruff format --check .

dependencies:
	uv sync --all-packages
	uv pip check

# One run per member: the same module name may stand in two packages.
types:
	$(foreach package,$(PACKAGES),$(UV_RUN) mypy $(call SOURCES,$(package)) &&) true
	$(UV_RUN) mypy scripts

test:
	$(UV_RUN) pytest --slow

# Each package against only the dependencies that it declares: an undeclared one shows here alone. Extras are left out,
# except where tests of what they are for would all be skipped; those then run whole.
EXTRAS_grpo-core := --extra ray --extra gym
EXTRAS_robotwin-env := --extra tabletop --extra robotwin --extra episodes --extra lerobot
SELECT_grpo-core := not gpu
isolated: $(PACKAGES:%=isolated-%)

$(PACKAGES:%=isolated-%): isolated-%:
	uv run --isolated --package $* $(EXTRAS_$*) --no-default-groups --group test \
	  pytest -q -m "$(or $(SELECT_$*),not slow)" $(call TESTS,$*)

# As `isolated`, but everything is only imported: quick, and no test runs twice where `test` runs too.
importable: $(PACKAGES:%=importable-%)

$(PACKAGES:%=importable-%): importable-%:
	uv run --isolated --package $* $(EXTRAS_$*) --no-default-groups --group test \
	  pytest -q --collect-only $(call TESTS,$*) > /dev/null

wheels:
	rm -rf dist
	uv build --all-packages --wheel --no-sources --out-dir dist
	$(UV_RUN) python scripts/check_wheels.py dist $(PACKAGES)

# Versions and hashes of everything, without a registry's address: `locked` compares it with a fresh lock, `lock` renews it.
locked:
	python3 scripts/check_locked.py

lock:
	python3 scripts/check_locked.py --write

# The documentation, in `dist/docs`; a broken link or an unknown name ends it. Nothing that it documents is installed.
docs:
	NO_COLOR=1 uv run --isolated --no-default-groups --only-group docs zensical build --strict

# Each package against the oldest versions that it says it works with.
lowest: $(PACKAGES:%=lowest-%)

$(PACKAGES:%=lowest-%): lowest-%:
	rm -rf dist/lowest-$*
	uv venv --quiet dist/lowest-$*
	uv pip install --quiet --python dist/lowest-$* --resolution lowest-direct --group test \
	  -e "$(if $(filter noisegate-apps,$*),apps,packages/$*$(LOWEST_$*))"
	dist/lowest-$*/bin/python -m pytest -q -m "$(or $(SELECT_$*),not slow)" $(call TESTS,$*)

LOWEST_grpo-core := [gym]
LOWEST_robotwin-env := [tabletop,robotwin,episodes,lerobot]

# The public names of PACKAGE against its last release.
api:
	uv run --isolated --no-default-groups --only-group release python scripts/check_api.py $(PACKAGE)

# All that a release of PACKAGE does but the upload: `make release-dry-run PACKAGE=grpo-core`.
PYTHONS ?= 3.11 3.14
ALLOW_MISSING ?= --allow-missing
release-dry-run:
	rm -rf dist/release && mkdir -p dist/release
	python3 scripts/release_notes.py "$(or $(TAG),$(PACKAGE)-v$$(uv version --package $(PACKAGE) --short))" \
	  > dist/release-notes.md || { [ -n "$(ALLOW_MISSING)" ] && echo "(a dry run goes on without notes)"; }
	$(MAKE) api PACKAGE=$(PACKAGE)
	uv build --package $(PACKAGE) --no-sources --out-dir dist/release
	$(if $(filter noisegate-apps,$(PACKAGE)),uv build --all-packages --wheel --no-sources --out-dir dist/release)
	python3 scripts/smoke_distributions.py dist/release $(PACKAGE) $(PYTHONS:%=--python %) $(ALLOW_MISSING)

clean:
	rm -rf dist .venv .mypy_cache .ruff_cache .pytest_cache
