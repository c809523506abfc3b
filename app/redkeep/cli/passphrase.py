"""The passphrase: from the environment, a file, or the terminal, and never from the command line."""

from __future__ import annotations

import argparse
import getpass
import os
import stat
import sys
from pathlib import Path

from redkeep.crypto.store import SecretStore
from redkeep.errors import ConfigurationError, SecretStoreError

VARIABLE = "REDKEEP_PASSPHRASE"
FILE_VARIABLE = "REDKEEP_PASSPHRASE_FILE"
DEFAULT_FOLDER = Path("secrets/local")


def add_folder_option(parser: argparse.ArgumentParser) -> None:
    """Add `--secrets DIR` to a parser."""
    parser.add_argument(
        "--secrets",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help=f"the secrets folder (default: {DEFAULT_FOLDER})",
    )


def passphrase_from_environment() -> str | None:
    """Return REDKEEP_PASSPHRASE, or the first line of the file that REDKEEP_PASSPHRASE_FILE names.

    None when neither is set. Raises ConfigurationError when both are, when it is empty, or when the file
    cannot be read or is open to others.
    """
    direct, named = os.environ.get(VARIABLE), os.environ.get(FILE_VARIABLE)
    if direct is not None and named is not None:
        raise ConfigurationError(f"{VARIABLE} and {FILE_VARIABLE} are both set; keep one")
    if named is not None:
        return _from_file(Path(named))
    if direct == "":
        raise ConfigurationError(f"{VARIABLE} is empty; set it or unset it")
    return direct


def ask_passphrase(*, twice: bool = False) -> str:
    """Ask on the terminal, without echo; `twice` for a new one. Raises SecretStoreError without a terminal, or when the two differ."""
    if not sys.stdin.isatty():
        raise SecretStoreError(f"a passphrase is needed, but there is no terminal to ask on; set {FILE_VARIABLE}")
    first = getpass.getpass("New passphrase of the secrets: " if twice else "Passphrase of the secrets: ")
    if twice and getpass.getpass("Once more: ") != first:
        raise SecretStoreError("the two passphrases differ")
    return first


def open_store(folder: Path) -> SecretStore:
    """Open the secrets in `folder`, asking for the passphrase only when they are sealed and none is set.

    Raises SecretStoreError or ConfigurationError like `SecretStore.open` and the functions above.
    """
    passphrase = passphrase_from_environment()
    if passphrase is None and SecretStore.is_sealed(folder):
        passphrase = ask_passphrase()
    return SecretStore.open(folder, passphrase=passphrase)


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as source:
            status = os.fstat(source.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise ConfigurationError(
                    f"{FILE_VARIABLE} names a file open to others: run `chmod 600 {path}`"
                )
            line = source.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigurationError(f"{FILE_VARIABLE} names {path}, which cannot be read: {reason}") from None
    if not line:
        raise ConfigurationError(f"{FILE_VARIABLE} names {path}, whose first line is empty")
    return line
