"""Where settings come from: environment variables, an env file, and secrets in files of their own.

Light on purpose (no pydantic, no redis): `redkeep status` and `Settings` read through this one module, so that they
cannot disagree. An env file is the whole truth when it is named; ambient variables are not mixed in.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from redkeep.errors import ConfigurationError

FLAGS: Final = frozenset(
    {"redis_tls_enabled", "redis_protected_mode", "redis_dev_mode", "redis_read_legacy", "redis_client_tracking"}
)
SECRETS: Final = frozenset(
    {
        "redis_password", "redis_cache_password", "redis_health_password", "redis_janitor_password", "redis_monitor_password",
        "redis_encryption_key", "redis_encryption_keys", "redis_sentinel_password",
    }
)
_TEXTS: Final = frozenset(
    {
        "environment", "redis_url", "redis_username", "redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file",
        "redis_tls_min_version", "redis_namespace", "redis_compression", "redis_client",
        "redis_sentinels", "redis_sentinel_name", "redis_sentinel_username",
    }
)
VARIABLES: Final = {field.upper(): field for field in sorted(FLAGS | SECRETS | _TEXTS)}
"""Environment variable -> field of Settings. Each secret can also come from the file that `<VARIABLE>_FILE` names."""

SOURCE: Final = "REDIS_SETTINGS_FILE"
"""Names the env file that this process's environment was made from (systemd's `EnvironmentFile=`, Docker's `env_file:`): there
a running process finds a rotated password, while its environment never changes."""

LOCAL: Final = "REDKEEP_LOCAL_FILE"
"""In an env file, names another one whose variables are added when it is there: what people set beside what a deploy writes."""

MAX_FILE_BYTES: Final = 65_536
"""No env file and no secret is that long; a wrong path (a device, a log) is."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of an env file: `NAME=value` lines, `#` comment lines, a value bare or in one pair of quotes.

    Only what systemd, Docker and a shell read alike is accepted. Raises ConfigurationError, with the line number and
    never the value, for a substitution (`$(...)`, `${...}`, backticks: they would stay literal text), a space in
    a bare value, a name given twice, an unknown REDIS_ variable, or a file that cannot be read.
    """
    variables = _variables(path)
    local = Path(variables.pop(LOCAL, "") or os.devnull)
    if local.is_file():
        more = _variables(local)
        if twice := sorted(set(more) & set(variables)):
            raise ConfigurationError(f"{local}: {twice[0]} is already set in {path}; remove it")
        variables |= more
    known = {SOURCE, *VARIABLES, *(f"{field.upper()}_FILE" for field in SECRETS)}
    for name in sorted(set(variables) - known):
        if name.startswith("REDIS_"):
            raise ConfigurationError(f"{path}: {name} is not a setting of Redkeep; check the spelling or remove it")
    return variables


def files_of(path: Path) -> tuple[Path, ...]:
    """Every file that the settings of an env file come from: itself, the one beside it that LOCAL names, and secrets in files of their
    own. Raises ConfigurationError like `read_env_file`."""
    beside, variables = _variables(path).get(LOCAL), read_env_file(path)
    pointers = (variables.get(f"{field.upper()}_FILE") for field in sorted(SECRETS))
    return (path, *(Path(file) for file in (beside, *pointers) if file))


def _variables(path: Path) -> dict[str, str]:
    variables: dict[str, str] = {}
    for number, line in enumerate(_read(path, what=f"env file {path}").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, equals, value = line.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ConfigurationError(f"{where}: not NAME=value; write the variable without `export` and without spaces")
        if name in variables:
            raise ConfigurationError(f"{where}: {name} is given twice; keep one")
        if "$(" in value or "${" in value or "`" in value:
            raise ConfigurationError(f"{where}: {name} contains a substitution, which is kept as literal text; write the value itself")
        if value[:1] in ('"', "'"):
            if len(value) < 2 or value[-1] != value[0] or value[0] in value[1:-1] or "\\" in value:
                raise ConfigurationError(f"{where}: {name} has an unmatched quote, a backslash, or text after its closing quote; correct it")
            value = value[1:-1]
        elif any(character.isspace() for character in value):
            raise ConfigurationError(f"{where}: {name} contains a space; put comments on their own line")
        variables[name] = value
    return variables


def read_secret_file(path: Path, *, field: str) -> str:
    """The secret a file holds, without the newline at its end.

    Raises ConfigurationError when the file is missing, empty, not a plain file, or readable or writable by others.
    """
    return _read(path, what=f"{field}: {path}", private=True).rstrip("\r\n")


def collect(variables: Mapping[str, str]) -> dict[str, str | bool]:
    """Field -> value for every setting in `variables`, secrets in files read, flags as bool.

    Empty is not a value: in development it means unset, otherwise it is an error, because it is what a variable that
    somebody forgot to fill turns into. ENVIRONMENT is the app's own variable and may hold a word that we do not know
    ("staging"): everything but "development" counts as production. Raises ConfigurationError naming the variable.
    """
    development = variables.get("ENVIRONMENT", "").strip().lower() == "development"
    fields: dict[str, str | bool] = {}
    for name, field in VARIABLES.items():
        if field == "environment":
            fields |= {field: "development" if development else "production"} if name in variables else {}
            continue
        value = variables.get(name)
        pointer = variables.get(f"{name}_FILE") if field in SECRETS else None
        if value is not None and pointer is not None:
            raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one")
        if pointer:
            value = read_secret_file(Path(pointer), field=f"{name}_FILE")
        elif pointer is not None:
            value = ""
        if value is None or (value == "" and development):
            continue
        if value == "":
            if field == "redis_namespace":
                continue
            raise ConfigurationError(f"{name} is empty; give it a value or remove it")
        fields[field] = parse_flag(value, field=name) if field in FLAGS else value
    return fields


def parse_flag(text: str, *, field: str) -> bool:
    """True or false from true/false, 1/0, yes/no, on/off. Raises ConfigurationError for anything else."""
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ConfigurationError(f"{field} must be true or false")
    return word in _TRUE


def _read(path: Path, *, what: str, private: bool = False) -> str:
    try:  # O_NONBLOCK: a fifo must not hang the start; judged and read through one descriptor
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigurationError(f"{what} does not exist") from None
    except PermissionError:
        raise ConfigurationError(f"{what} cannot be read by this user; run as root, or join the group that owns it") from None
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{what} is not a plain file")
        if private and status.st_mode & 0o007:
            raise ConfigurationError(f"{what} is open to every user; run `chmod o= {path}`")
        content = os.read(descriptor, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{what} is longer than {MAX_FILE_BYTES} bytes; is it the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} is not UTF-8 text") from None
