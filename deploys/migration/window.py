"""What the host itself says about its migration: the journal, who holds the lock, and the server as it was before."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import DeployError

from deploys.engine import Engine
from deploys.server_settings import NEVER_ASKED
from deploys.stages.machine import STATE
from redkeep.errors import RedkeepError
from redkeep.migration.journal import Holder, Position, parse, position

FOLDER = f"{STATE}/migration"
JOURNAL = f"{FOLDER}/journal.jsonl"
# There while a migration is under way: no other verb may work on the host then.
OPEN = f"{FOLDER}/open"
BEFORE = f"{FOLDER}/before"
BACKUP = f"{FOLDER}/dump.rdb"
VERIFIED = f"{FOLDER}/dump.verified"
# Which start of the server was under which sandbox: the running process itself shows no trace of it.
STARTED = f"{FOLDER}/started"
PLAN = f"{FOLDER}/rollback-plan.txt"
HOLDER = "/run/redkeep-migration"

Runner = Callable[[str], tuple[bool, list[str], list[str]]]


@dataclass(frozen=True)
class Window:
    """``before`` is the server's configuration of before (no password in it), ``acl`` its users, ``folders`` the modes of its
    folders as (mode, owner, group, path); ``original`` and ``extended`` the SHA-256 of its configuration file and of that file
    with our part included. ``runs`` is the run of each entry of the journal, ``silent`` the seconds since the lock's holder
    was last seen."""

    position: Position = field(default_factory=Position)
    runs: tuple[str, ...] = ()
    holder: Holder | None = None
    silent: float = 0.0
    before: Mapping[str, str] = field(default_factory=dict)
    acl: tuple[str, ...] = ()
    folders: tuple[tuple[str, str, str, str], ...] = ()
    address: str = "127.0.0.1"
    port: int = 6379
    original: str = ""
    extended: str = ""

    @property
    def documented(self) -> bool:
        """Whether the server as it was before is on file."""
        return bool(self.before)


def include_file(engine: Engine) -> str:
    """Our part of the configuration while a migration is under way."""
    return f"{engine.folder}/redkeep-migration.conf"


def original_file(engine: Engine) -> str:
    """The server's configuration file of before, with its owner and mode."""
    return f"{BEFORE}/{engine.name}.conf"


def beside(engine: Engine) -> dict[str, str]:
    """The files of the distribution that our configuration replaces, and where each is kept as it was."""
    return {
        f"/etc/logrotate.d/{engine.package}": f"{BEFORE}/logrotate",
        f"/etc/default/{engine.package}": f"{BEFORE}/default",
    }


def include_text(engine: Engine) -> str:
    """What is added to the end of the server's own configuration file; the rest stays as it was, byte for byte."""
    return (
        f"\\n# Managed by redkeep during a migration; deploys/rollback.py takes it out again.\\ninclude {include_file(engine)}\\n"
    )


def read(run: Runner, engine: Engine) -> Window:
    """The window of a host. Raises DeployError for a journal that cannot be understood."""
    ok, lines, errors = run(_script(engine))
    if not ok:
        raise DeployError(f"the migration's journal cannot be read: {(errors or ['no answer'])[0]}")
    parts = {name: _decoded(value) for name, _, value in (line.partition(" ") for line in lines)}
    try:
        entries = parse(parts.get("journal", ""))
    except RedkeepError as error:
        raise DeployError(str(error)) from None
    door = parts.get("door", "").split()
    return Window(
        position=position(entries),
        runs=tuple(entry.run for entry in entries),
        holder=Holder.parse(parts.get("holder", "")),
        silent=float(parts.get("silent", "0").strip() or 0),
        before=pairs(parts.get("config", "").splitlines()),
        acl=tuple(line for line in parts.get("acl", "").splitlines() if line),
        folders=tuple((w[0], w[1], w[2], w[3]) for w in map(str.split, parts.get("folders", "").splitlines()) if len(w) == 4),
        address=door[0] if len(door) == 2 else "127.0.0.1",
        port=int(door[1]) if len(door) == 2 else 6379,
        original=parts.get("original", "").strip(),
        extended=parts.get("extended", "").strip(),
    )


def pairs(lines: Sequence[str]) -> dict[str, str]:
    """CONFIG GET as redis-cli prints it to a pipe: a name, then its value, a line each; never a password."""
    return {name: value for name, value in zip(lines[::2], lines[1::2], strict=False) if name not in NEVER_ASKED}


def _script(engine: Engine) -> str:
    original = original_file(engine)
    return f"""say() {{ printf '%s ' "$1"; base64 -w0; echo; }}
[ ! -r {JOURNAL} ] || say journal < {JOURNAL}
[ ! -r {HOLDER} ] || {{ say holder < {HOLDER}; echo $(( $(date +%s) - $(stat -c %Y {HOLDER}) )) | say silent; }}
[ -e {BEFORE}/complete ] || exit 0
say config < {BEFORE}/config; say acl < {BEFORE}/acl; say folders < {BEFORE}/folders; say door < {BEFORE}/door
sha256sum < {original} | cut -c1-64 | say original
{{ cat {original}; printf '{include_text(engine)}'; }} | sha256sum | cut -c1-64 | say extended"""


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
