#!/bin/sh
# Prints the path of Prometheus' promtool: the installed one, or the one of Debian's package, unpacked below build/ and not
# installed, so that no Prometheus starts on this machine.
set -eu
cd "$(dirname "$0")/.."
if command -v promtool; then exit; fi
folder=$PWD/build/prometheus
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9 # several workers may ask at once
if [ ! -x "$folder/usr/bin/promtool" ]; then
    cd "$folder"
    apt-get -qq download prometheus 2>/dev/null || { apt-get -qq update >&2; apt-get -qq download prometheus 2>/dev/null; } || {
        echo 'redkeep: promtool is missing, and the Debian package prometheus cannot be fetched' >&2
        exit 1
    }
    dpkg-deb --extract prometheus_*.deb .
    rm prometheus_*.deb
fi
echo "$folder/usr/bin/promtool"
