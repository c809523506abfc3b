"""Whether two servers hold the same: a sample of one's keys, looked up on the other. Neither shows a key or a value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import DeployError

from deploys.site import Site
from deploys.stages.wanted import CLI

SAMPLE = 200

# A value as one SHA-1 of its parts, so that the same has the same whatever its encoding is on either server. Redis offers
# scripts no stronger hash, and nobody here is deceived by a collision but himself.
_DIGEST = """
local function hex(s) return (string.gsub(s, '.', function(c) return string.format('%02x', string.byte(c)) end)) end
local function all(list, step)
  local parts = {}
  for i = 1, #list, step do
    local part = redis.sha1hex(list[i])
    if step == 2 then part = part .. redis.sha1hex(list[i + 1]) end
    parts[#parts + 1] = part
  end
  if step == 2 then table.sort(parts) end
  return redis.sha1hex(table.concat(parts))
end
local function digest(k)
  local t = redis.call('TYPE', k)['ok']
  if t == 'none' then return 'none' end
  local d
  if t == 'string' then d = redis.sha1hex(redis.call('GET', k))
  elseif t == 'hash' then d = all(redis.call('HGETALL', k), 2)
  elseif t == 'set' then local m = redis.call('SMEMBERS', k); table.sort(m); d = all(m, 1)
  elseif t == 'zset' then d = all(redis.call('ZRANGE', k, 0, -1, 'WITHSCORES'), 2)
  elseif t == 'list' then d = all(redis.call('LRANGE', k, 0, -1), 1)
  else d = redis.sha1hex(redis.call('DUMP', k)) end
  return t .. ':' .. d
end
"""

_PICK = """
local found, n = {}, 0
for i = 1, ARGV[1] * 3 do
  local k = redis.call('RANDOMKEY')
  if k and not found[k] then found[k] = true; n = n + 1 end
  if n >= ARGV[1] + 0 then break end
end
local out = {}
for k in pairs(found) do out[#out + 1] = hex(k) .. ' ' .. digest(k) end
return out
"""

_LOOK_UP = """
local out = {}
for i = 1, #ARGV do
  out[i] = digest((string.gsub(ARGV[i], '..', function(h) return string.char(tonumber(h, 16)) end)))
end
return out
"""


@dataclass(frozen=True)
class Comparison:
    """How many keys were looked at, and of these the same on the other side, changed there, and gone from there."""

    sampled: int = 0
    same: int = 0
    changed: int = 0
    gone: int = 0

    def __str__(self) -> str:
        return f"of {self.sampled} sampled keys {self.same} are the same on the server now, {self.changed} changed and {self.gone} are gone"


def compare(site: Site, *, here: str, there: str = CLI, sample: int = SAMPLE) -> Comparison:
    """Compare a sample of the keys of the server behind the command ``here`` with the server behind ``there``, database by database.

    Raises DeployError when one of them does not answer.
    """
    sampled = same = gone = 0
    for database in databases(site, here):
        lines = _script(site, f"{here} -n {database}", _PICK, [str(sample)])
        picked = dict(line.split(" ", 1) for line in lines if " " in line)
        found = _script(site, f"{there} -n {database}", _LOOK_UP, list(picked)) if picked else []
        if len(found) != len(picked):
            raise DeployError(f"{site.bundle.name}: the sample could not be compared ({' '.join(found)[:100]}): run again.")
        sampled += len(picked)
        same += sum(a == b for a, b in zip(picked.values(), found, strict=True))
        gone += found.count("none")
    return Comparison(sampled, same, sampled - same - gone, gone)


def keys_of(site: Site, cli: str = CLI) -> tuple[int, ...]:
    """How many keys each database has that has any. Raises DeployError when the server does not answer."""
    return tuple(_keyspace(site, cli).values())


def databases(site: Site, cli: str) -> tuple[int, ...]:
    """The databases that have keys. Raises DeployError when the server does not answer."""
    return tuple(_keyspace(site, cli))


def _keyspace(site: Site, cli: str) -> dict[int, int]:
    ok, lines, errors = site.run(f"{cli} INFO keyspace")
    if not ok or not lines:
        raise DeployError(f"{site.bundle.name}: no answer ({' '.join(errors)[:100]}): run again.")
    found = (re.match(r"db(\d+):keys=(\d+)", line.strip()) for line in lines)
    return {int(match[1]): int(match[2]) for match in found if match}


def _script(site: Site, cli: str, text: str, arguments: Sequence[str]) -> list[str]:
    quoted = (_DIGEST + text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    ok, lines, errors = site.run(cli, stdin=f'EVAL_RO "{quoted}" 0 {" ".join(arguments)}\n')
    if not ok:
        raise DeployError(f"{site.bundle.name}: no answer ({' '.join(errors)[:100]}): run again.")
    return [line.strip() for line in lines if line.strip()]
