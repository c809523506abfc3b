"""`redkeep keys`: the key ring in the operator's secrets: see it, and change keys without losing a cached value.

add, deploy everywhere; promote, deploy; `redkeep migrate-data`, or wait for the longest time to live; retire, deploy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from redkeep.cli.status import DEFAULT_ENV_FILE
from redkeep.errors import ConfigurationError, RedkeepError

if TYPE_CHECKING:
    from redkeep.crypto.store import SecretStore
    from redkeep.migration.census import Census

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `keys` and its verbs."""
    from redkeep.cli.passphrase import add_folder_option

    parser = subparsers.add_parser("keys", help="generate a key; list, add, promote and retire the keys of the ring")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    generate = verbs.add_parser("generate", help="print a new encryption key, for use of the package alone")
    generate.set_defaults(func=_generate)

    show = verbs.add_parser("list", help="list the ring: key ids and ages, never keys")
    show.set_defaults(func=_list)
    add = verbs.add_parser("add", help="add a key that decrypts but does not encrypt yet")
    add.set_defaults(func=_add)
    promote = verbs.add_parser("promote", help="encrypt with this key from now on; the others still decrypt")
    promote.add_argument("key_id", nargs="?", metavar="KEY-ID", help="as `list` shows it (default: the newest)")
    promote.set_defaults(func=_promote)
    retire = verbs.add_parser(
        "retire",
        help="remove all keys but the current one, once no entry needs them",
        description="Remove all keys but the current one. Asks the server first, and refuses while an entry needs a key that would be "
        "removed.",
    )
    retire.add_argument("--keep", type=int, default=1, metavar="N", help="how many to keep (default: 1)")
    retire.add_argument("--env-file", type=Path, default=DEFAULT_ENV_FILE, metavar="FILE",
                        help=f"settings for reaching the server (default: {DEFAULT_ENV_FILE})")
    retire.add_argument("--counts", metavar="FILE",
                        help="what `redkeep migrate-data --count --json` printed on an app host, instead of asking (-: stdin)")
    retire.add_argument("--force", action="store_true", help="remove them anyway; what they encrypted is lost")
    retire.set_defaults(func=_retire)
    for verb in (show, add, promote, retire):
        add_folder_option(verb)


def _generate(args: argparse.Namespace) -> int:
    from redkeep.crypto.keyring import generate_key

    print(generate_key())
    return 0


def _list(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store
    from redkeep.cli.table import age, render

    store = open_store(args.secrets)
    made = [entry.made for entry in store.entries() if entry.kind in ("encryption key", "old encryption key")]
    ids = _ids(store) if made else []
    rows = [
        ("encrypts and decrypts" if place == 0 else "decrypts", key_id, age(moment))
        for place, (key_id, moment) in enumerate(zip(ids, made, strict=True))
    ]
    print(render(("USE", "KEY ID", "MADE"), rows))
    return 0


def _add(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store

    store = open_store(args.secrets)
    with store.transaction():
        store.encryption_keys()  # a ring without a key gets its sealing one first
        store.add_encryption_key(sealing=False)
    print(f"added key {_ids(store)[-1]}; it decrypts only: deploy it everywhere, then `redkeep keys promote`")
    return 0


def _promote(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store

    store = open_store(args.secrets)
    ids = _ids(store)
    if args.key_id:
        found = [place for place, key_id in enumerate(ids) if key_id.startswith(args.key_id.lower())]
        if len(found) != 1:
            raise ConfigurationError(f"the ring has {len(found)} keys with that id; see `redkeep keys list`")
        place = found[0]
    else:
        place = store.encryption_keys().index(store.newest_encryption_key())
    if place == 0:
        print(f"key {ids[0]} encrypts already; nothing was changed")
        return 0
    store.promote_encryption_key(store.encryption_keys()[place])
    print(f"key {ids[place]} encrypts now; deploy, run `redkeep migrate-data`, then `redkeep keys retire`")
    return 0


def _retire(args: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import open_store

    store = open_store(args.secrets)
    if args.keep < 1:
        raise ConfigurationError("--keep must be at least 1: the first key encrypts")
    gone = _ids(store)[args.keep :]
    if not gone:
        print("there is no key to remove; nothing was changed")
        return 0
    lost = "what they encrypted, which was not counted"
    try:
        lost = _census(args, store).refusal(gone)
    except RedkeepError as error:
        if not args.force:
            remedy = "" if args.counts else ". Name the settings of an app with --env-file, or give --counts"
            raise ConfigurationError(
                f"whether entries still need {', '.join(gone)} cannot be determined: {error}{remedy}; --force removes the keys anyway"
            ) from None
    if lost and not args.force:
        raise ConfigurationError(f"{lost}; run `redkeep migrate-data` first, or remove the keys anyway with --force")
    store.retire_encryption_keys(keep=args.keep)
    print(f"removed {', '.join(gone)}; deploy to apply this" + (f". Lost: {lost}" if lost else ""))
    return 0


def _census(args: argparse.Namespace, store: SecretStore) -> Census:
    """What is sealed with which key. Raises the leaves of our error tree."""
    import asyncio
    import json
    import sys

    from redkeep.migration.census import Census
    from redkeep.migration.primary import take_census_there
    from redkeep.target import read_for_the_cache, read_target

    if args.counts is not None:
        name = "standard input" if args.counts == "-" else args.counts
        try:
            text = sys.stdin.read() if args.counts == "-" else Path(args.counts).read_text("utf-8")
            if not text.strip():
                raise ConfigurationError(f"{name} is empty: the count failed on the app host; count again, and read its error")
            return Census.parse(json.loads(text))
        except OSError as error:
            raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ConfigurationError(f"{name} contains no counts; give what `redkeep migrate-data --count --json` prints") from None
    target = read_target(args.env_file)
    if target.janitor_password is None and "cache_janitor" in store.users():
        target = target._replace(janitor_password=store.password("cache_janitor"))
    return asyncio.run(take_census_there(target, read_for_the_cache(args.env_file)))


def _ids(store: SecretStore) -> list[str]:
    from redkeep.crypto.keyring import KeyRing

    return [key.key_id.hex() for key in KeyRing.from_strings(store.encryption_keys()).keys]
