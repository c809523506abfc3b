"""A snapshot of a running server: taken, fetched, and loaded by a throwaway server beside it.

It comes over the replication protocol, as a replica gets it: consistent, while the server works, whatever its persistence is.
"""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyinfra.api import DeployError

from deploys.difference import encode
from deploys.engine import Engine
from deploys.site import Site
from deploys.stages.machine import STATE
from deploys.stages.wanted import CLI

# A piece travels as base64, with one command; so much memory it takes on both sides, a few times over.
PIECE_BYTES = 4 * 1024 * 1024

# A folder that nobody has touched for so long belongs to a run that died: each piece that is fetched touches it.
STALE_MINUTES = 10


@dataclass(frozen=True)
class Snapshot:
    """One on a host: ``folder`` is root's alone. ``size`` in bytes; ``keys`` in all databases, ``expires`` of them with an end,
    ``format`` the version of the file."""

    folder: str
    size: int
    sha256: str
    keys: int
    expires: int
    format: int
    version: str

    @property
    def path(self) -> str:
        return f"{self.folder}/dump.rdb"


def take(site: Site, *, cli: str = CLI) -> Snapshot:
    """Take one on the host, have Redis' own checker read all of it, and leave it there; ``remove`` takes it away.

    Raises DeployError: the server does not answer, no room, or the file is damaged.
    """
    lines = _do(site, TAKE.format(state=STATE, stale=STALE_MINUTES, cli=cli, check=checker(site.bundle.engine)), "no snapshot")
    told = dict(line.split(" ", 1) for line in lines if " " in line)
    return Snapshot(
        folder=told["folder"],
        size=int(told["size"]),
        sha256=told["sha256"],
        keys=int(told.get("keys", "0")),
        expires=int(told.get("expires", "0")),
        format=int(told["format"]),
        version=told.get("version", "?"),
    )


def fetch(site: Site, snapshot: Snapshot) -> Iterator[bytes]:
    """The content of a snapshot in pieces. Raises DeployError when a piece does not come."""
    for number in range(-(-snapshot.size // PIECE_BYTES)):
        script = (
            f"touch {snapshot.folder}; dd if={snapshot.path} bs={PIECE_BYTES} skip={number} count=1 2>/dev/null | base64 -w 0"
        )
        lines = _do(site, script, f"piece {number + 1} did not arrive")
        try:
            yield base64.b64decode("".join(lines), validate=True)
        except binascii.Error:
            raise DeployError(f"{site.bundle.name}: piece {number + 1} of the snapshot arrived damaged: run again.") from None


def send(site: Site, content: Iterable[bytes], *, folder: str, sha256: str) -> None:
    """Put a snapshot into a new folder of the host, root's alone. Raises DeployError: no room, or another checksum arrived."""
    _do(site, f"umask 077; rm -rf {folder}; mkdir -m 0700 {folder}; : > {folder}/dump.rdb", "no folder")
    for piece in _pieces(content):
        _do(site, f"base64 -d >> {folder}/dump.rdb", "no room", stdin=encode(piece))
    lines = _do(site, f"sync {folder}/dump.rdb; sha256sum < {folder}/dump.rdb", "no checksum")
    if lines[0].split()[0] != sha256:
        raise DeployError(f"{site.bundle.name}: the snapshot arrived damaged: run again.")


def _pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    """The same in pieces of PIECE_BYTES, the last one shorter: a round trip each."""
    waiting = bytearray()
    for part in content:
        waiting += part
        while len(waiting) >= PIECE_BYTES:
            yield bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]
    if waiting:
        yield bytes(waiting)


def remove(site: Site, folder: str) -> None:
    """Take a folder with a snapshot away, and the throwaway server that runs from it."""
    _do(site, f"{stop_throwaway(folder)}\nrm -rf {shlex.quote(folder)}", "a folder could not be removed")


def move(site: Site, folder: str, target: str) -> None:
    """Give a snapshot's folder another name."""
    _do(site, f"rm -rf {target}; mv -T {folder} {target}", "no folder")


def checker(engine: Engine) -> str:
    return f"/usr/bin/{engine.name}-check-rdb"


def throwaway(site: Site, folder: str) -> int:
    """Load the snapshot in ``folder`` by a server that nobody can reach but root there, and return how many keys it has.

    It is Debian's server under another name, without a port, as the server's user. Raises DeployError with its own words
    when it cannot read the file or there is no memory for it.
    """
    engine = site.bundle.engine
    script = LOAD.format(folder=folder, check=checker(engine), data=engine.data_folder, cli=engine.cli)
    return int(_do(site, script, "the snapshot does not load")[-1])


def throwaway_cli(site: Site, folder: str) -> str:
    """The command that asks the throwaway server of a folder."""
    return f"{site.bundle.engine.cli} -s {folder}/run/data/socket"


def memory(site: Site, folder: str) -> int:
    """Bytes that the data takes in the throwaway server of a folder."""
    lines = _do(site, f"{throwaway_cli(site, folder)} INFO memory | tr -d '\\r' | sed -n 's/^used_memory://p'", "no answer")
    return int(lines[0])


def stop_throwaway(folder: str) -> str:
    """Shell that ends the throwaway server of a folder, if there is one."""
    return f'[ ! -s {folder}/run/pid ] || kill "$(cat {folder}/run/pid)" 2>/dev/null || true'


def _do(site: Site, script: str, failure: str, *, stdin: str = "") -> list[str]:
    ok, lines, errors = site.run(f"set -eu; {script}", stdin=stdin)
    if not ok:
        reason = next((line.strip() for line in reversed(errors) if line.strip()), failure)
        raise DeployError(f"{site.bundle.name}: {reason}")
    return lines


# Room is judged by the memory that the data takes: a snapshot is smaller, for it is compressed and has no pointers.
TAKE = """umask 077; cd {state}
find . -maxdepth 1 -name 'snapshot.*' -mmin +{stale} -exec rm -rf {{}} +
used=$({cli} INFO memory | sed -n 's/^used_memory_dataset:\\([0-9]*\\).*/\\1/p')
[ -n "$used" ] || {{ echo 'the server does not answer: see deploys/status.py, then run again.' >&2; exit 1; }}
room=$(df -Pk . | awk 'NR == 2 {{print $4}}')
[ $(( used / 1024 + 16384 )) -lt "$room" ] || {{
    echo "$(( room / 1024 )) MiB are free in {state}, and the data takes $(( used / 1048576 )) MiB: make room for the snapshot." >&2; exit 1; }}
d=$(mktemp -d {state}/snapshot.XXXXXX); trap 'rm -rf "$d"' EXIT
version=$({cli} INFO server | tr -d '\\r' | sed -n 's/^\\(redis\\|valkey\\)_version://p' | tail -1)
{cli} --rdb "$d/dump.rdb" >"$d/said" 2>&1 || {{ echo "the snapshot failed: $(tail -1 "$d/said")" >&2; exit 1; }}
{check} "$d/dump.rdb" >"$d/said" 2>&1 || {{
    ! grep -q 'handle RDB format version' "$d/said" || {{
        echo "the container's server writes a format too new for this host's {check}: upgrade the package of that tool." >&2; exit 1; }}
    echo "the snapshot is damaged: $(tail -1 "$d/said")" >&2; exit 1; }}
sync "$d/dump.rdb"
echo "folder $d"; echo "size $(stat -c %s "$d/dump.rdb")"; echo "sha256 $(sha256sum < "$d/dump.rdb" | cut -d' ' -f1)"
echo "format $(head -c 9 "$d/dump.rdb" | tail -c 4 | sed 's/^0*//')"; echo "version $version"
sed -n 's/^\\[info\\] \\([0-9]*\\) keys read.*/keys \\1/p; s/^\\[info\\] \\([0-9]*\\) expires.*/expires \\1/p' "$d/said"
rm "$d/said"; trap - EXIT"""

LOAD = """umask 077; d={folder}/run; rm -rf "$d"; mkdir "$d"; cp {check} "$d/redis-server"; chmod 0711 {folder} "$d"; chmod 0755 "$d/redis-server"
need=$(( $(stat -c %s {folder}/dump.rdb) * 2 / 1024 + 65536 )); free=$(sed -n 's/^MemAvailable: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)
[ $need -lt $free ] || {{
    echo "$(( free / 1024 )) MiB of memory are free, testing the snapshot takes up to $(( need / 1024 )) MiB: free some." >&2; exit 1; }}
u=$(stat -c %u {data}); g=$(stat -c %g {data}); mkdir "$d/data"; cp {folder}/dump.rdb "$d/data/dump.rdb"; chown -R $u:$g "$d/data"
setpriv --reuid=$u --regid=$g --clear-groups "$d/redis-server" --port 0 --unixsocket "$d/data/socket" --unixsocketperm 700 \\
    --dir "$d/data" --save '' --appendonly no --daemonize no --supervised no --logfile "$d/data/log" --enable-debug-command no \\
    >"$d/out" 2>&1 9>&- & p=$!; echo $p > "$d/pid"
while kill -0 $p 2>/dev/null; do
    [ "$({cli} -s "$d/data/socket" PING 2>/dev/null)" = PONG ] && break; sleep 0.05
done
kill -0 $p 2>/dev/null || {{
    said=$(cat "$d/out" "$d/data/log" 2>/dev/null | grep -v '^$' | tail -2 | tr '\\n' ' ')
    echo "the snapshot does not load: $said" >&2; exit 1; }}
{cli} -s "$d/data/socket" INFO keyspace | tr -d '\\r' | sed -n 's/^db[0-9]*:keys=\\([0-9]*\\).*/\\1/p' | awk '{{n += $1}} END {{print n + 0}}'"""
