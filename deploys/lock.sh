#!/bin/sh
# Write the lock files anew: hashes for every file, no index address. Needs `make test-environment` once before.
set -eu
cd "$(dirname "$0")/.."
lock() { .venv/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"; }
lock app/pyproject.toml --output-file app/requirements.lock
lock app/pyproject.toml --extra api --constraints app/requirements.lock --output-file app/requirements-api.lock
lock pyproject.toml --constraints app/requirements.lock --output-file deploys/requirements.lock
lock app/pyproject.toml --extra dashboard --constraints deploys/requirements.lock --output-file app/requirements-dashboard.lock
lock pyproject.toml --group test --constraints deploys/requirements.lock --constraints app/requirements-api.lock --constraints app/requirements-dashboard.lock \
    --output-file tests/requirements.lock
lock tests/scanners/requirements.in --output-file tests/scanners/requirements.lock
lock tests/scanners/files/requirements.in --output-file tests/scanners/files/requirements.lock
lock tests/soak/requirements.in --output-file tests/soak/requirements.lock
lock tests/performance/requirements.in --constraints app/requirements.lock --output-file tests/performance/requirements.lock
lock tests/performance/ansible/requirements.in --constraints tests/requirements.lock --output-file tests/performance/ansible/requirements.lock
