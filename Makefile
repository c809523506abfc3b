# Redkeep: `make deploy` secures this machine, `make test` proves the bundle. `make help` lists the rest.
INVENTORY ?= inventory
ARGS ?=
WHAT ?=
FILE ?=
# With -y, pyinfra does not work out what a run would do: a dry run would show nothing.
PYINFRA = .venv/bin/pyinfra$(if $(filter --dry,$(ARGS)),, -y)
PYTEST = .venv/bin/python -m pytest

.PHONY: help inventory-there deploy status migrate rollback rotate backup restore destroy verify test test-fast test-environment environment lint coverage lab lab-down soak bench bench-deploy performance image locks clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 18

deploy: environment inventory-there ## Secure the hosts of INVENTORY (this machine by default)
	@[ "$$(id -u)" = 0 ] || sudo -v
	$(PYINFRA) $(INVENTORY) deploys/secure_redis.py $(ARGS)

status: environment inventory-there ## Show how the hosts differ from the wanted state; changes nothing
	$(PYINFRA) $(INVENTORY) deploys/status.py $(ARGS)

migrate: environment inventory-there ## Migrate a Redis in use, the next stage; ARGS="--data stage=..." names one, ARGS="--dry" shows the plan
	$(PYINFRA) $(INVENTORY) deploys/migrate.py $(ARGS)

rollback: environment inventory-there ## Undo the last stage of a migration; ARGS="--data stage=..." undoes every stage back to that one
	$(PYINFRA) $(INVENTORY) deploys/rollback.py $(ARGS)

rotate: environment inventory-there ## Replace secrets: WHAT=passwords, certificates, ca, encryption-key or api-key; ARGS="--dry" shows the plan
	$(PYINFRA) $(INVENTORY) deploys/rotate.py --data what=$(WHAT) $(ARGS)

backup: environment inventory-there ## Back up each Redis, encrypted, into backups/; ARGS="--data drill=yes" tests it
	$(PYINFRA) $(INVENTORY) deploys/backup.py $(ARGS)

restore: environment inventory-there ## Restore a backup: FILE=backups/<environment>/<name>.redkeep
	$(PYINFRA) $(INVENTORY) deploys/restore.py --data file=$(FILE) $(ARGS)

destroy: environment inventory-there ## Remove everything; needs ARGS="--data confirm=<inventory name>"
	$(PYINFRA) $(INVENTORY) deploys/destroy.py $(ARGS)

verify: test-environment inventory-there ## Check the hosts of INVENTORY with independent tools; changes nothing
	$(PYTEST) -q tests/hosts --inventory $(INVENTORY) $(ARGS)

test: test-environment ## Run all tests: lint, unit, real Redis, real hosts
	@tests/run.sh

test-fast: test-environment ## Lint and the tests that need no server
	@tests/run.sh fast

coverage: test-environment ## Show which lines of the package are reached by the tests that need no lab (ten minutes)
	@deploys/bootstrap.sh tests/requirements.lock git openssl redis-tools nftables chromium chromium-driver
	@mkdir -p build/coverage
	.venv/bin/coverage erase
	.venv/bin/coverage run --source="$(CURDIR)/app/redkeep" -m pytest -q tests/unit tests/redis tests/api tests/dashboard $(ARGS)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report --fail-under=95

lint: test-environment ## Style, types, security and secrets of the code itself
	@tests/lint.sh

lab: test-environment ## Start two real test hosts (Debian 12 and 13) and write an inventory for them
	.venv/bin/python -m tests.lab up $(ARGS)

lab-down: test-environment ## Remove the test hosts
	.venv/bin/python -m tests.lab down

soak: test-environment ## The long runs: fuzzing, a million seals, every fault, drift and kill
	.venv/bin/python -m tests.soak.fuzz --seconds 600
	.venv/bin/python -m tests.soak.seals
	.venv/bin/python -m tests.soak.migrate_data
	$(PYTEST) -q tests/unit tests/redis tests/api tests/dashboard tests/deploys --soak $(ARGS)

bench: test-environment ## Measure the cache beside redis-py, the PRD design and other caches (six minutes; ARGS=--quick: one)
	@tests/performance/peers.sh
	build/bench/bin/python -m tests.performance.bench $(ARGS)

image: environment ## Build the images of the API and the dashboard (ARGS="--build-arg IMAGE=... --build-arg TAG=..." for another base)
	@deploys/image.sh api $(ARGS)
	@deploys/image.sh dashboard $(ARGS)

bench-deploy: test-environment ## Measure the deploy beside ansible-core on lab hosts, one and eight (ten minutes or more)
	@tests/performance/ansible/environment.sh
	.venv/bin/python -m tests.performance.bench_deploy $(ARGS)

performance: ## Measure all of it and write the figures into docs/performance.md (half an hour)
	@$(MAKE) --no-print-directory bench ARGS="--operations 4000 --json build/bench.json --svg docs/performance.svg"
	@$(MAKE) --no-print-directory bench-deploy ARGS="--json build/bench-deploy.json"
	@.venv/bin/python -m tests.performance.page

locks: test-environment ## Write the lock files again
	deploys/lock.sh

inventory-there:
	@test -f "$(INVENTORY)" || { echo "redkeep: there is no inventory $(INVENTORY): name a file such as inventories/single.py." >&2; exit 2; }

environment:
	@deploys/bootstrap.sh deploys/requirements.lock

test-environment:
	@deploys/bootstrap.sh tests/requirements.lock redis-tools openssl

clean: ## Remove build results and caches; keeps the secrets and the environment
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
