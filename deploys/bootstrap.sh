#!/bin/sh
# Make the virtual environment .venv from a lock file, and install the package of app/ into it for development.
#
#   deploys/bootstrap.sh deploys/requirements.lock [debian packages that must be there ...]
#
# Does nothing when all is as it should be. Installs missing Debian packages as root or with sudo.
set -eu
cd "$(dirname "$0")/.."
lock=$1
shift

apt_install() {
    sudo=''
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "redkeep: the Debian packages $* are missing: install them as root, or give this user sudo." >&2; exit 1; }
        sudo=sudo
    fi
    echo "Installing Debian packages: $*"
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >/dev/null 2>&1 || {
            apt-get -qq -o DPkg::Lock::Timeout=300 update
            apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >/dev/null
        }' sh "$@"
}

python=''
for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if command -v $candidate >/dev/null 2>&1 && $candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || { echo 'redkeep: Python 3.11 or later is missing: apt install python3 (Debian 12 or later).' >&2; exit 1; }

wanted=''
$python -c 'import ensurepip, venv' 2>/dev/null || wanted=python3-venv
for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || wanted="$wanted $package"
done
# shellcheck disable=SC2086 # a list of package names
[ -z "$wanted" ] || apt_install $wanted

stamp=".venv/.$(echo "$lock" | tr / -)"
if ! cmp -s "$lock" "$stamp" || [ ! -x .venv/bin/pyinfra ]; then
    echo "Making the virtual environment .venv from $lock"
    [ -x .venv/bin/pip ] || $python -m venv .venv
    .venv/bin/pip --quiet --disable-pip-version-check install --require-hashes --requirement "$lock"
    .venv/bin/pip --quiet --disable-pip-version-check install --no-deps --no-index --no-build-isolation --editable app
    cp "$lock" "$stamp"
fi
