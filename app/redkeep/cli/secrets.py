"""`redkeep secrets`: make, show, seal and hand out the operator's secrets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from redkeep.errors import SecretStoreError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

REVEAL_KEYS = "encryption-key"
"""What `show --reveal` calls the key ring; users go by their own names."""

API_NAME = "api"
"""The name under which the deploy keeps the API's key."""


def register(subparsers: Subparsers) -> None:
    """Add `secrets` and its verbs."""
    from redkeep.cli.passphrase import add_folder_option

    parser = subparsers.add_parser("secrets", help="create, show and encrypt the operator's secrets")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    init = verbs.add_parser("init", help="create the folder, a CA and an encryption key")
    init.add_argument("--seal", action="store_true", help="encrypt the file with a passphrase")
    init.set_defaults(func=_init)

    show = verbs.add_parser("show", help="list names, fingerprints and ages, never values")
    show.add_argument("--reveal", metavar="NAME", help=f"print the value of one: a user, or {REVEAL_KEYS}")
    show.set_defaults(func=_show)

    env = verbs.add_parser("env", help="print an environment file with fresh values, for the package alone")
    kind = env.add_mutually_exclusive_group(required=True)
    kind.add_argument("--production", action="store_true", help="TLS, one user per service, encryption")
    kind.add_argument("--development", action="store_true", help="no TLS; still random values")
    env.add_argument("--url", help="the address of Redis, without credentials")
    env.add_argument(
        "--output", type=Path, metavar="FILE", help="write FILE with mode 0600 instead of printing"
    )
    env.add_argument("--force", action="store_true", help="replace FILE")
    env.set_defaults(func=_env)

    seal = verbs.add_parser("seal", help="encrypt the file with a passphrase, or change the passphrase")
    seal.set_defaults(func=_seal)
    unseal = verbs.add_parser("unseal", help="decrypt the file again")
    unseal.set_defaults(func=_unseal)
    path = verbs.add_parser("path", help="print the path of the secrets")
    path.set_defaults(func=_path)
    renew = verbs.add_parser("renew-api-key", help="make a new key for the API; the next deploy gives it to the hosts")
    renew.set_defaults(func=_renew_api_key)
    for verb in (init, show, seal, unseal, path, renew):
        add_folder_option(verb)


def _init(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import ask_passphrase, passphrase_from_environment
    from redkeep.crypto.folder import SecretFolder
    from redkeep.crypto.store import SecretStore

    if SecretFolder(args.secrets).read() is not None:
        print(f"{args.secrets} already has secrets; nothing was changed")
        return 0
    passphrase = passphrase_from_environment()
    if args.seal and passphrase is None:
        passphrase = ask_passphrase(twice=True)
    store = SecretStore.open(args.secrets, passphrase=passphrase, create=True)
    with store.transaction():
        store.authority()
        store.encryption_keys()
    print(f"made {args.secrets}{', sealed' if store.sealed else ''}; back it up, there is no other copy")
    return 0


def _show(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store
    from redkeep.cli.table import age, remaining, render

    store = open_store(args.secrets)
    if args.reveal is None:
        rows = [
            (row.kind, row.name, row.fingerprint, age(row.made), remaining(row.ends))
            for row in store.entries()
        ]
        print(render(("KIND", "NAME", "SHA-256", "MADE", "EXPIRES"), rows))
    elif args.reveal in store.users():
        print(store.password(args.reveal))
    elif args.reveal == REVEAL_KEYS and any(row.kind == "encryption key" for row in store.entries()):
        print("\n".join(store.encryption_keys()))
    else:
        raise SecretStoreError(f"there is no secret named {args.reveal!r}; see `redkeep secrets show`")
    return 0


def _env(args: argparse.Namespace) -> int:
    from redkeep.cli.environment import development_environment, production_environment
    from redkeep.cli.files import write_file

    build = production_environment if args.production else development_environment
    text = build(url=args.url) if args.url else build()
    if args.output is None:
        sys.stdout.write(text)
    else:
        write_file(args.output, text.encode("utf-8"), force=args.force)
        print(f"wrote {args.output} (mode 0600)")
    return 0


def _seal(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import ask_passphrase, open_store, passphrase_from_environment
    from redkeep.crypto.store import SecretStore

    if SecretStore.is_sealed(args.secrets):
        store, passphrase = open_store(args.secrets), None
    else:
        store, passphrase = SecretStore.open(args.secrets), passphrase_from_environment()
    if passphrase is None:
        passphrase = ask_passphrase(twice=True)
    store.seal(passphrase)
    print(f"sealed {args.secrets}; it cannot be opened without the passphrase")
    return 0


def _unseal(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store
    from redkeep.crypto.store import SecretStore

    if not SecretStore.is_sealed(args.secrets):
        print(f"{args.secrets} is not sealed; nothing was changed")
        return 0
    open_store(args.secrets).unseal()
    print(f"unsealed {args.secrets}; only its file modes protect it now")
    return 0


def _renew_api_key(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store
    from redkeep.crypto.passwords import generate_password

    store = open_store(args.secrets)
    if API_NAME not in store.users():
        raise SecretStoreError("there is no API key yet; a deploy with the knob api_enabled creates it")
    store.set_password(API_NAME, generate_password())
    print("made a new API key; deploy, then give it to the callers of the API: `redkeep secrets show --reveal api`")
    return 0


def _path(args: argparse.Namespace) -> int:
    print(args.secrets.absolute())
    return 0
