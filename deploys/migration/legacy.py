"""The server as it is found before a migration: asked by its own plaintext port, and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploys.engine import Engine
from deploys.migration.window import FOLDER, pairs
from deploys.site import Site
from redkeep.access.acl import CACHE_KEY_PREFIX

# A snapshot is written beside the old one, copied and read by a second server: twice its size, and some air.
COPIES = 2
SPARE_BYTES = 64 * 1024**2

# Shell that prints how many keys were looked at, and how many of them are not the cache's. With `r` of `access`.
OTHER_KEYS = f"""r --no-raw --scan | head -100000 | awk '
    /^"/ {{ seen++; if (index($0, "\\"{CACHE_KEY_PREFIX}") != 1) others++ }} END {{ print "keys", seen + 0, others + 0 }}'"""


@dataclass(frozen=True)
class Legacy:
    """``info`` and ``config`` of the running server, ``ping`` its answer; ``free`` in bytes where the backup and where the data
    go, ``memory`` what a new process can have; ``users`` how many it has beside `default`, in its configuration file or running,
    ``acl_file`` whether it has a file of them; ``other_keys`` how many of the ``keys_seen`` are not the cache's; ``main`` the number of
    the process that systemd knows as its service's, "0" for none, "" without systemd."""

    ping: str = ""
    port: int = 6379
    address: str = "127.0.0.1"
    info: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    free: tuple[int, ...] = ()
    memory: tuple[int, ...] = ()
    users: int = 0
    acl_file: bool = False
    main: str = ""
    keys_seen: int = 0
    other_keys: int = 0


# Shell that defines `words NAME FILE`: the words of a setting in redis.conf, of its last line, one on each line. They are split as
# the server does it (sdssplitargs in sds.c): double quotes with escapes, single quotes with \' alone.
WORDS = r"""words() {
    LC_ALL=C awk -v setting="$1" '
        function number(pair) { return 16 * (index(digits, tolower(substr(pair, 1, 1))) - 1) + index(digits, tolower(substr(pair, 2, 1))) - 1 }
        BEGIN { digits = "0123456789abcdef"; blank = " \t\r\f\v"; from = "nrtba"; to = "\n\r\t\b\a" }
        tolower($1) == setting { line = $0 }
        END {
            sub(/^[ \t\r\f\v]*[^ \t\r\f\v]+/, "", line)
            for (i = 1; ; ) {
                while (i <= length(line) && index(blank, substr(line, i, 1))) i++
                if (i > length(line)) exit
                for (word = quote = ""; i <= length(line); i++) {
                    c = substr(line, i, 1)
                    if (!quote && index(blank, c)) break
                    if (!quote && (c == "\"" || c == "\047")) { quote = c; continue }
                    if (c == quote) { i++; break }
                    if (quote == "\047" && substr(line, i, 2) == "\\\047") c = substr(line, ++i, 1)
                    else if (quote == "\"" && substr(line, i) ~ /^\\x[0-9A-Fa-f][0-9A-Fa-f]/) {
                        c = sprintf("%c", number(substr(line, i + 2, 2))); i += 3
                    } else if (quote == "\"" && c == "\\" && i < length(line)) {
                        c = substr(line, ++i, 1)
                        if (place = index(from, c)) c = substr(to, place, 1)
                    }
                    word = word c
                }
                print word
            }
        }' "$2"
}"""


def access(engine: Engine) -> str:
    """Shell that defines ``r``, redis-cli by the plaintext port, with the password of the server's own configuration file: it
    is read on the host and stays there."""
    return f"""conf={engine.config}
{WORDS}
port=$(words port "$conf"); port=${{port:-6379}}
address=$(words bind "$conf" | sed 's/^-//' |
    awk '$0 == "127.0.0.1" || $0 == "0.0.0.0" || $0 == "*" {{ l = 1 }} NR == 1 {{ f = $0 }} END {{ print (l || !f) ? "127.0.0.1" : f }}')
secret=$(words requirepass "$conf")
if [ -n "$secret" ]; then REDISCLI_AUTH=$secret; export REDISCLI_AUTH; fi
r() {{ timeout 60 {engine.cli} --no-auth-warning -h "$address" -p "$port" "$@"; }}"""


def inspect(site: Site) -> Legacy:
    """Ask the running server; an empty answer where none runs."""
    engine = site.bundle.engine
    ok, lines, _ = site.run(f"""[ -r {engine.config} ] && [ -x {engine.cli} ] || {{ echo 'ping nothing is installed'; exit 0; }}
{access(engine)}
echo "ping $(r PING 2>&1 | head -1)"; echo "door $address $port"
r INFO all | tr -d '\\r' | sed -n 's/^\\([a-z_0-9]*\\):/info \\1 /p'
r CONFIG GET '*' | sed 's/^/config /'
echo "users $(( $(grep -ciE '^[[:space:]]*user[[:space:]]' "$conf") + $(r ACL USERS | grep -cvx default) ))"
[ ! -e {engine.acl_file} ] || echo 'file yes'
[ ! -d /run/systemd/system ] || echo "main $(systemctl show -p MainPID --value {engine.unit})"
{OTHER_KEYS}
sed -n 's/^MemAvailable: */memory /p' /proc/meminfo
for f in {FOLDER} {engine.data_folder}; do
    while [ ! -d "$f" ]; do f=${{f%/*}}; done; echo "free $(df -Pk --output=avail "$f" | tail -1)"
done""")
    parts: dict[str, list[str]] = {}
    for line in lines if ok else []:
        name, _, value = line.partition(" ")
        parts.setdefault(name, []).append(value)
    seen, others = (int(word) for word in parts.get("keys", ["0 0"])[0].split())
    door = parts.get("door", ["127.0.0.1 6379"])[0].split()
    return Legacy(
        ping=parts.get("ping", [""])[0],
        address=door[0],
        port=int(door[1]) if door[1].isdigit() else 0,
        info={word: value for word, _, value in (line.partition(" ") for line in parts.get("info", []))},
        config=pairs(parts.get("config", [])),
        free=tuple(int(value) * 1024 for value in parts.get("free", []) if value.strip().isdigit()),
        memory=tuple(int(value.split()[0]) * 1024 for value in parts.get("memory", []) if value[:1].isdigit()),
        users=int(parts.get("users", ["0"])[0] or 0),
        acl_file="file" in parts,
        main=parts.get("main", [""])[0],
        keys_seen=seen,
        other_keys=others,
    )


def notice(found: Legacy) -> str:
    """What does not hinder a migration and must be known before it; empty when there is nothing."""
    if not found.other_keys:
        return ""
    return (
        f"{found.other_keys} of {found.keys_seen} keys looked at do not begin with {CACHE_KEY_PREFIX} - the apps' user may not use these: "
        "if an app still needs them, move them to another Redis before its settings change (docs/migration.md, Before the day)."
    )


def problem(site: Site, found: Legacy, memory_bytes: int) -> str:
    """Why this server cannot be migrated as it is, and what to do; empty when it can."""
    for judge in (_answers, _kind, _settings, _size):
        if sentence := judge(site, found, memory_bytes):
            return sentence
    return ""


def _answers(site: Site, found: Legacy, _: int) -> str:
    package = site.bundle.engine.package
    if found.ping == "nothing is installed":
        return f"there is no {package} to migrate: deploys/secure_redis.py sets up a new one."
    if found.ping != "PONG":
        return (
            f"the {package} does not answer on {found.address}, port {found.port} ({found.ping or 'no answer'}): start it; if it "
            f"asks for a password, {site.bundle.engine.config} must contain it as requirepass."
        )
    return ""


def _kind(site: Site, found: Legacy, _: int) -> str:
    engine, info = site.bundle.engine, found.info
    number = info.get("valkey_version" if engine.name == "valkey" else "redis_version", "0")
    least = tuple(int(part) for part in engine.oldest.split("."))
    if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) < least:
        return f"{engine.package} {number} is too old, {engine.oldest} is needed: upgrade the host to Debian 12 or later first."
    if info.get("role") != "master" or info.get("connected_slaves", "0") != "0":
        return "the server replicates: a migration supports a single server; detach its replicas (REPLICAOF NO ONE) first."
    if info.get("cluster_enabled") == "1":
        return "the server is part of a cluster: a migration supports a single server."
    if info.get("loading") == "1":
        return "the server is still loading its data: run again when it has finished."
    if info.get("config_file", "") != engine.config:
        return f"the server was started with {info.get('config_file') or 'no configuration file'}, not {engine.config}: start it with that."
    if found.main and found.main != info.get("process_id"):
        return (
            f"the server was not started by {engine.unit}, which the last stage restarts: stop it and start that service first."
        )
    # After a migration that went all the way back the process still names our file, which is gone.
    if found.users or found.acl_file or found.config.get("aclfile", "") not in ("", engine.acl_file):
        return (
            "the server has its own users (an aclfile, or user lines in its configuration): their passwords and rights cannot "
            "be kept; note what they are for, remove them, and give those services the new users during the migration."
        )
    return ""


def _settings(site: Site, found: Legacy, _: int) -> str:
    engine, config = site.bundle.engine, found.config
    if config.get("tls-port", "0") != "0":
        return (
            f"the server has a TLS port already ({config['tls-port']}): turn it off first, because its certificates are not ours."
        )
    for name, wanted in (("dir", engine.data_folder), ("dbfilename", "dump.rdb")):
        if config.get(name) != wanted:
            return f"the server's setting {name} is {config.get(name)}, wanted {wanted}: move the data there and change the setting first."
    if found.port == site.bundle.knobs.redis_tls_port:
        return f"the server's plaintext port is {found.port}: choose another redis_tls_port."
    highest = max((int(name[2:]) for name in found.info if name.startswith("db") and name[2:].isdigit()), default=0)
    if highest >= site.bundle.knobs.redis_databases:
        return f"there are keys in database {highest}: set redis_databases to at least {highest + 1}."
    return ""


def _size(site: Site, found: Legacy, memory_bytes: int) -> str:
    knobs, info = site.bundle.knobs, found.info
    used, most = int(info.get("used_memory", "0")), knobs.maxmemory_bytes(memory_bytes)
    if used > most * 9 // 10:
        return (
            f"its data takes {used // 1024**2} MiB, and redis_maxmemory allows {most // 1024**2} MiB: entries would be evicted; raise "
            "redis_maxmemory, or give the host more memory."
        )
    clients = int(info.get("connected_clients", "0"))
    if clients > knobs.redis_maxclients * 9 // 10:
        return f"{clients} clients are connected, and redis_maxclients allows {knobs.redis_maxclients}: raise it."
    # The throwaway server holds all data once more; whoever is short of memory then may be the server in use.
    if any(available < used + SPARE_BYTES for available in found.memory):
        return (
            f"there is not enough memory to test the backup: {min(found.memory) // 1024**2} MiB are free, and a throwaway server with its data "
            f"takes up to {(used + SPARE_BYTES) // 1024**2} MiB; free some, or give the host more memory."
        )
    needed = COPIES * used + SPARE_BYTES
    if any(free < needed for free in found.free):
        return (
            f"there is not enough room for the backup: {min(found.free) // 1024**2} MiB are free ({FOLDER} and "
            f"{site.bundle.engine.data_folder}), {needed // 1024**2} MiB are needed; make room first."
        )
    return ""
