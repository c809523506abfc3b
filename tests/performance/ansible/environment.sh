#!/bin/sh
# Make build/ansible, the environment of the ansible-core that deploys are compared with.
set -eu
cd "$(dirname "$0")/../../.."
lock=tests/performance/ansible/requirements.lock
if ! cmp -s $lock build/ansible/.lock; then
    .venv/bin/python -m venv build/ansible
    build/ansible/bin/pip --quiet --disable-pip-version-check install --require-hashes --requirement $lock
    cp $lock build/ansible/.lock
fi
