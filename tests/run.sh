#!/bin/sh
# Every test, tier by tier; a tier that fails ends the run, for what comes after it stands on it.
#
#   tests/run.sh [fast]     fast: lint, and the tests that start at most a server of their own
#
# Makes .venv. Installs the Debian packages a tier needs, as root or with sudo: redis-tools brings the server's binary
# without the distribution's service; the lab installs its engine itself.
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
'' | fast) ;;
*) echo 'usage: tests/run.sh [fast]' >&2; exit 2 ;;
esac
began=$(date +%s)

# The last line shown is pytest's own summary.
pytest_tier() {
    name=$1
    shift
    tier "$name" .venv/bin/python -m pytest -q --durations=3 --durations-min=2 "$@"
}

tier() {
    name=$1
    shift
    start=$(date +%s)
    echo "--- $name: $*"
    if "$@"; then
        echo "--- $name passed in $(($(date +%s) - start)) s"
    else
        code=$?
        echo "--- $name FAILED after $(($(date +%s) - start)) s: the tiers after it did not run" >&2
        exit $code
    fi
}

deploys/bootstrap.sh tests/requirements.lock git openssl redis-tools nftables iproute2 systemd
tier lint tests/lint.sh
pytest_tier unit tests/unit
if [ "${1:-}" != fast ]; then
    pytest_tier redis tests/redis tests/api
    pytest_tier uvloop --uvloop tests/redis/test_transport_*.py tests/redis/test_cache_loops.py
    deploys/bootstrap.sh tests/requirements.lock chromium chromium-driver
    pytest_tier dashboard tests/dashboard
    # sslyze pins an older cryptography than the package ships: it has an environment of its own.
    if ! cmp -s tests/scanners/requirements.lock build/scanners/.lock; then
        .venv/bin/python -m venv build/scanners
        build/scanners/bin/pip --quiet --disable-pip-version-check install --require-hashes --requirement tests/scanners/requirements.lock
        cp tests/scanners/requirements.lock build/scanners/.lock
    fi
    # Two processes, each with a lab and files of its own: a deploy waits more than it computes. tests/hosts and tests/scanners look
    # at hosts that are deployed already, by `--inventory FILE`: tests/deploys runs both on its own hosts.
    .venv/bin/python -m tests.lab build
    pytest_tier lab tests/lab tests/deploys -n 2 --dist loadfile
fi
echo "--- everything passed in $(($(date +%s) - began)) s"
