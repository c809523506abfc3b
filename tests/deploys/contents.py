"""What a host's Redis holds: filled with values of every kind, and shown key by key; and backups of it."""

from __future__ import annotations

from pathlib import Path

from tests.deploys.runner import Deployment, Run
from tests.lab.hosts import Host

CLI = "/usr/local/sbin/redkeep-cli"
KEYS = 500

# Values of every kind Redis has, with and without an end, under names that a shell, a line or redis-cli could stumble over.
FILL = f"""
redis.call('FLUSHALL')
for i = 1, {KEYS - 6} do redis.call('SET', 'ai_cache:' .. i, string.rep('v' .. i, 100), 'EX', 5000 + i) end
redis.call('SET', 'ai_cache:' .. string.char(0, 10, 13, 34, 39, 92, 255), string.char(0, 200, 10))
redis.call('HSET', 'hash', 'a', '1', 'b', string.char(0))
redis.call('SADD', 'set', 'x', 'y', 'z', '1')
redis.call('ZADD', 'zset', 1.5, 'a', -2, 'b')
redis.call('RPUSH', 'list', 'b', 'a', 'b')
redis.call('XADD', 'stream', '1-1', 'k', 'v')
"""


def ask(host: Host, command: str) -> str:
    return host.check(f"{CLI} {command}")


def fill(host: Host) -> None:
    host.put("/run/fill.lua", FILL)
    host.check(f"{CLI} --eval /run/fill.lua; rm /run/fill.lua")
    assert ask(host, "DBSIZE") == str(KEYS)


SHOW = """
local out = {}
for _, k in ipairs(redis.call('KEYS', '*')) do
  local t, v = redis.call('TYPE', k)['ok']
  if t == 'string' then v = redis.call('GET', k)
  elseif t == 'hash' then v = table.concat({redis.call('HGET', k, 'a'), redis.call('HGET', k, 'b'), redis.call('HLEN', k)}, '|')
  elseif t == 'set' then local m = redis.call('SMEMBERS', k); table.sort(m); v = table.concat(m, '|')
  elseif t == 'zset' then v = table.concat(redis.call('ZRANGE', k, 0, -1, 'WITHSCORES'), '|')
  elseif t == 'list' then v = table.concat(redis.call('LRANGE', k, 0, -1), '|')
  else v = cjson.encode(redis.call('XRANGE', k, '-', '+')) end
  out[#out + 1] = redis.sha1hex(k .. '=' .. v) .. ' ' .. redis.call('PEXPIRETIME', k)
end
table.sort(out)
return out
"""


def seen(host: Host) -> list[str]:
    """Every key with its value and its end: a hash and a time each."""
    host.put("/run/show.lua", SHOW)
    found = host.check(f"{CLI} --eval /run/show.lua; rm /run/show.lua").splitlines()
    assert all(len(line.split()) == 2 for line in found), found
    return found


def temporary(host: Host) -> str:
    """What a snapshot or a throwaway server left on the host."""
    return host.check("ls /var/lib/redkeep | grep -E 'snapshot|restore|drill' || true; pgrep -af 'unixsocket [/]' || true")


def run(deployment: Deployment, verb: str, folder: Path, **data: object) -> Run:
    given = {"backups_folder": folder} | data
    return deployment.run(verb, *(word for name, value in given.items() for word in ("--data", f"{name}={value}")))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.redkeep"))
