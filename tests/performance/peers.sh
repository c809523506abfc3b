#!/bin/sh
# Make build/bench, the environment of the benchmark: the package and, beside it, the caches it is compared with.
set -eu
cd "$(dirname "$0")/../.."
if ! cat app/requirements.lock tests/performance/requirements.lock | cmp -s - build/bench/.lock; then
    .venv/bin/python -m venv build/bench
    build/bench/bin/pip --quiet --disable-pip-version-check install --require-hashes \
        --requirement app/requirements.lock --requirement tests/performance/requirements.lock
    site=$(build/bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$PWD/app" > "$site/redkeep.pth"
    cat app/requirements.lock tests/performance/requirements.lock > build/bench/.lock
fi
