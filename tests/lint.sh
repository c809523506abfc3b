#!/bin/sh
# What can be told from the text alone: style, types, insecure code, secrets, and what must not stand in a file.
# One line a check; details only where it fails. Needs .venv (make test-environment).
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Also what is not committed yet; never what is ignored.
files() { git ls-files --cached --others --exclude-standard -z -- "$@"; }

# Finds a pattern (extended) in the files of the project named after it; fails and shows the places when there are any.
# This file, the one that must name what it looks for, is left out.
none_has() {
    pattern=$1
    shift
    [ "$(echo | grep -cE -e "$pattern" 2>&1)" = 0 ] || { echo "not a pattern: $pattern" >&2; return 1; }
    ! files "$@" ':!tests/lint.sh' | xargs -0 -r grep -nIE -e "$pattern"
}

style() { ruff check --quiet --output-format concise .; }
# The operator side is formatted by the tool; authors of app/ and tests/ break tables and long texts by hand.
format() { ruff format --quiet --diff deploys config.py group_data inventories; }
types() { mypy --no-error-summary; }
insecure() { bandit -q -ll -r app deploys; }
# Entropy of hashes is what lock files are about. A finding that is none gets an inline pragma with its reason.
secrets() {
    files ':!*.lock' | xargs -0 -r -n 40 -P 2 detect-secrets-hook --no-verify >"$work/found" && return 0
    sed -n 's/^Secret Type: *//p; s/^Location: */    /p' "$work/found"
    return 1
}
shell() {
    files '*.sh' | xargs -0 -r -n 1 sh -n || return 1
    ! files '*.sh' | xargs -0 -r grep -L '^set -eu$' | grep . || { echo 'above: no `set -eu`' >&2; return 1; }
}
waivers() {
    none_has 'pragma: allowlist (nextline )?secret *$' &&
        none_has '# type: ignore *$|# type: ignore\[[a-z, -]+\] *$' 'deploys/*.py' &&
        none_has '# nosec( B[0-9, B]+)? *$|# noqa *$' '*.py'
}
paths() { none_has '(^|[^A-Za-z0-9_.*?/-])/(work|home/[a-z0-9_-]+|Users|root/\.[a-z]+env)/' ':!tests/hosts'; }
registries() {
    none_has 'pypi\.(org|python)|pythonhosted|(registry|index)\.docker|docker\.io/|ghcr\.io|quay\.io|gcr\.io|deb\.debian\.org|(--|_|^)(extra-)?index-url *[=:]? *https?:|https?://[^/ ]*(artifactory|nexus|devpi|mirror)' \
        ':!docs/*' ':!tests/lab/image.py'
}

checks='style format types insecure secrets shell waivers paths registries'
describe() {
    case $1 in
    style) echo 'style: ruff check' ;;
    format) echo 'form of the operator side: ruff format' ;;
    types) echo 'types: mypy --strict' ;;
    insecure) echo 'insecure code: bandit, medium and high' ;;
    secrets) echo 'secrets in the tree: detect-secrets' ;;
    shell) echo 'shell: sh -n, set -eu' ;;
    waivers) echo 'waivers: each names its rule and its reason' ;;
    paths) echo 'no path of one machine' ;;
    registries) echo 'no address of a package registry' ;;
    esac
}

[ "$(files | tr -dc '\0' | wc -c)" -gt 50 ] || { echo 'redkeep: git does not list the files of the project here.' >&2; exit 1; }
for check in $checks; do
    ( "$check" >"$work/$check.out" 2>&1 && echo 0 >"$work/$check" || echo 1 >"$work/$check" ) &
done
wait
failed=0
for check in $checks; do
    if [ "$(cat "$work/$check")" = 0 ]; then
        echo "ok      $(describe "$check")"
    else
        echo "FAILED  $(describe "$check")"
        sed 's/^/        /' "$work/$check.out"
        failed=1
    fi
done
exit $failed
