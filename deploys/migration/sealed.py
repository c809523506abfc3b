"""What is sealed on the server already, before the apps get the key: entries of a key that nobody has any more would be misses."""

from __future__ import annotations

import re
from collections.abc import Iterable

from deploys.credentials import key_ids
from deploys.facts.survey import Survey
from deploys.migration.passage import Passage
from deploys.stages.wanted import CLI
from redkeep.crypto.envelope import KEY_ID
from redkeep.migration.census import LOOK_SECONDS, Census

# Only names of entries go on to the second client: a name with a line break in it would be a command of its own.
_HASHED = r"ai_cache:op:([A-Za-z0-9_.-]{1,64}|~[0-9a-f]{32})\|h:[0-9a-f]{32}"
_LOOK = f"""{CLI} PING | grep -qx PONG || exit 1
export LC_ALL=C
timeout {LOOK_SECONDS:.0f} {CLI} --scan --pattern 'ai_cache:op:*|h:*' | grep -Ex '{_HASHED}' | sed 's/.*/GETRANGE & 0 10/' |
    {CLI} --no-raw | sort | uniq -c"""
_LINE = re.compile(r'\s*(\d+) "(.*)"')
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})|\\(.)")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b"}


def keys_are_known(passage: Passage, survey: Survey) -> str:
    """How many entries are sealed with a key that the secrets do not hold. Asked of as many as ten seconds allow, in the server's own
    order, which is that of a sample."""
    if passage.leave_unknown or not survey.server.reachable:
        return ""
    ok, lines, errors = passage.site.run(_LOOK)
    if not ok:
        return f"the encrypted entries on the server cannot be counted ({' '.join(errors)[:200] or 'no answer'}): run again."
    if not (found := counted(lines).unknown(key_ids(passage.site.credentials.encryption_keys))):
        return ""
    return (
        f"{found}, so they would be misses: bring back the secrets that have that key, or continue without these entries with "
        "--data unknown_keys=leave."
    )


def counted(lines: Iterable[str]) -> Census:
    """Sealed entries by key id, from lines of a count and the first eleven bytes of a value as redis-cli writes them."""
    census = Census()
    for line in lines:
        if not (found := _LINE.fullmatch(line)):
            continue
        header = _ESCAPE.sub(_unescaped, found[2]).encode("latin-1", "replace")
        if header[:1] == b"\xc1" and len(header) == KEY_ID.stop:
            key_id = header[KEY_ID].hex()
            census.sealed[key_id] = census.sealed.get(key_id, 0) + int(found[1])
    return census


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else _LETTERS.get(found[2], found[2])
