#!/bin/sh
# Build app/Dockerfile into the image localhost/redkeep/api or localhost/redkeep/dashboard: the wheel of app/, the locked list of an
# extra, and nothing else from this folder.
#
#   deploys/image.sh api|dashboard [--offline] [arguments of docker build, such as --build-arg IMAGE=... --build-arg TAG=...]
#
# With --offline the build needs no network: this machine downloads the wheels, and the base must have its Python and architecture.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
case $extra in
api | dashboard) shift ;;
*) echo 'usage: deploys/image.sh api|dashboard [--offline] [arguments of docker build]' >&2; exit 2 ;;
esac
command -v docker >/dev/null || { echo 'redkeep: docker is missing here: install it, or build the image elsewhere and copy it with docker save.' >&2; exit 2; }
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp app/Dockerfile "app/requirements-$extra.lock" "$context"
.venv/bin/pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir "$context" ./app
if [ "${1:-}" = --offline ]; then
    shift
    .venv/bin/pip --quiet --disable-pip-version-check download --require-hashes --only-binary :all: --no-deps \
        --requirement "app/requirements-$extra.lock" --dest "$context/wheels"
    set -- --network none --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=wheels "$@"
fi
docker build --quiet --build-arg "EXTRA=$extra" --tag "localhost/redkeep/$extra" "$@" "$context"
