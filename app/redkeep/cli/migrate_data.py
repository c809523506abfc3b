"""`redkeep migrate-data`: existing entries under the current key and secure names, beside live traffic; and the way back."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redkeep.cli.status import DEFAULT_ENV_FILE
from redkeep.errors import ConfigurationError

if TYPE_CHECKING:
    from redkeep.migration.counts import Counts, Progress

EXIT_LEFT: Final = 1
_NICENESS: Final = 10
"""Applications on this machine come first."""

_LINE_SECONDS: Final = 10.0
_BAR: Final = 24


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "migrate-data",
        help="encrypt existing entries with the current key, under hashed names",
        description="Encrypt existing entries with the current key, under hashed names, while applications keep working: entries of "
        "the old class, and those encrypted with older keys of the ring. Interrupt it at any time; the next run continues. Exit "
        "code: 0 if everything is migrated, 1 if something is left; the output says what. Scanning needs REDIS_JANITOR_PASSWORD or "
        "REDIS_JANITOR_PASSWORD_FILE, in the settings or in this process's environment.",
    )
    parser.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                        help=f"settings to use (default: {DEFAULT_ENV_FILE})")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done; write nothing")
    parser.add_argument("--count", action="store_true", help="only count: readable entries, and encrypted ones by key id")
    parser.add_argument("--reverse", action="store_true",
                        help="go back, within the migration window: readable names and plain JSON")
    parser.add_argument("--leave-unknown", action="store_true",
                        help="go on although some entries are encrypted with keys that are not in the key ring; they stay misses")
    parser.add_argument("--rate", type=_rate, default=None, metavar="N", help="entries a second (default: 2000; 0: no limit)")
    parser.add_argument("--state", type=Path, default=None, metavar="FILE",
                        help="where to keep the state between runs (default: in ~/.local/state/redkeep)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Move the entries and print what was done. Raises the leaves of our error tree."""
    import asyncio

    from redkeep.access.event_loop import loop_factory
    from redkeep.migration.cluster import ClusterMigration, refuse_unknown_keys
    from redkeep.migration.primary import at_primary
    from redkeep.migration.reencrypt import RATE, DataMigration
    from redkeep.migration.sweep import HEADER_WEIGHT
    from redkeep.settings import Settings

    os.nice(_NICENESS)
    if arguments.count:
        return _count(arguments)
    settings = Settings.load(arguments.env_file)
    kind = ClusterMigration if settings.redis_client == "cluster" else DataMigration
    rate = RATE if arguments.rate is None else arguments.rate
    state_file = None if arguments.dry_run else arguments.state or _default_state()

    async def moved() -> Counts:
        async with at_primary(settings.target, settings.for_the_cache) as target:
            migration = kind(
                target,
                compression=settings.redis_compression,
                rate=rate,
                reverse=arguments.reverse,
                dry_run=arguments.dry_run,
                state_file=state_file,
                show=Meter().show,
            )
            if not (arguments.dry_run or arguments.leave_unknown):
                await refuse_unknown_keys(target, client=settings.redis_client, rate=rate / HEADER_WEIGHT)
            return await migration.run()

    start = time.monotonic()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            counts = runner.run(moved())
        except KeyboardInterrupt:
            if not arguments.dry_run:
                print("\nredkeep: interrupted; nothing is lost, and the same command continues", file=sys.stderr)
            raise
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if arguments.json:
        import json

        print(json.dumps(vars(counts)))
    else:
        print(summary(counts, seconds=time.monotonic() - start, dry_run=arguments.dry_run, reverse=arguments.reverse))
    return EXIT_LEFT if counts.left or counts.unreadable or counts.without_old_name else 0


def _count(arguments: argparse.Namespace) -> int:
    import asyncio

    from redkeep.migration.census import RATE
    from redkeep.migration.primary import take_census_there
    from redkeep.target import read_for_the_cache, read_target

    if arguments.dry_run or arguments.reverse:
        raise ConfigurationError("--count changes nothing and goes with neither --dry-run nor --reverse; drop one")
    target = read_target(arguments.env_file)
    rate = RATE if arguments.rate is None else arguments.rate
    census = asyncio.run(take_census_there(target, read_for_the_cache(arguments.env_file), rate=rate))
    if arguments.json:
        import json

        print(json.dumps(vars(census)))
        return 0
    from redkeep.crypto.keyring import KeyRing

    ring = [key.key_id.hex() for key in KeyRing.from_strings(target.keys).keys] if target.keys else []
    for key_id, count in sorted(census.sealed.items()):
        use = "the current key" if ring[:1] == [key_id] else "an older key" if key_id in ring else "not in the ring"
        print(f"{count:>12,} encrypted with {key_id}, {use}")
    print(f"{census.readable:>12,} readable")
    if census.other:
        print(f"{census.other:>12,} under hashed names and not encrypted")
    return 0


def summary(counts: Counts, *, seconds: float, dry_run: bool, reverse: bool) -> str:
    """What was done, what is left and why, and what to do about it, a sentence a line."""
    from redkeep.migration.progress import span

    did = "would be " if dry_run else ""
    lines = []
    if reverse:
        lines.append(f"{counts.returned:,} entries {did}restored to readable form under their old names")
    else:
        lines.append(f"{counts.moved:,} entries {did}encrypted: {counts.readable:,} were readable, {counts.older_key:,} had an older key")
    lines[0] += "" if dry_run else f", in {span(seconds)}; {counts.compared:,} of them read back and compared"
    if counts.invalidated:
        lines.append(f"{counts.invalidated:,} {did}removed: they had been invalidated")
    if counts.superseded:
        lines.append(
            f"{counts.superseded:,} second copies {did}removed: an application has since read or written the same entries under "
            "their final names; nothing is lost"
        )
    for key_id, count in sorted(counts.foreign.items()):
        lines.append(f"{count:,} left as they are: encrypted with key {key_id}, which is not in the ring, or for another namespace")
    others = counts.unreadable - sum(counts.foreign.values())
    if others:
        lines.append(f"{others:,} left as they are: neither this cache nor the old class wrote them; they are misses")
    if counts.without_old_name:
        lines.append(f"{counts.without_old_name:,} left encrypted: written after the window was closed, so their old names are not known")
    if counts.left:
        lines.append(f"{counts.left:,} left: applications keep writing them; run it again")
    return "\n".join(lines)


class Meter:
    """The progress: one line that is rewritten in a terminal, a line each ten seconds elsewhere. On stderr."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Show it, unless it was shown a moment ago."""
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if now - self._shown_at < (0.2 if terminal else _LINE_SECONDS) and not (terminal and progress.fraction >= 1):
            return
        self._shown_at = now
        text = line(progress)
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def line(progress: Progress) -> str:
    """Part done, entries moved, speed, and the time that is left."""
    from math import inf

    from redkeep.migration.progress import span

    filled = int(progress.fraction * _BAR)
    left = f", about {span(progress.seconds_left)} left" if progress.seconds_left < inf else ""
    what = "moving" if progress.number == 1 else "checking"
    bar = "#" * filled + "." * (_BAR - filled)
    return f"{what} [{bar}] {progress.fraction:4.0%}  {progress.counts.moved:,} moved of {progress.counts.seen:,} seen{left}"


def _default_state() -> Path:
    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "redkeep"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"the state cannot be kept in {folder}: {error.strerror}; name a file with --state") from None
    except RuntimeError:  # the account is not in /etc/passwd, as in many containers
        raise ConfigurationError("the state cannot be kept, because this user has no home; name a file with --state") from None
    return folder / "migrate-data.json"


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1e9:
        raise argparse.ArgumentTypeError("must be a number of entries a second, or 0 for no limit")
    return rate
