"""`redkeep certs`: list, inspect, renew and export certificates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from redkeep.errors import CertificateError, ConfigurationError, SecretStoreError

if TYPE_CHECKING:
    from redkeep.crypto.leaf import Leaf
    from redkeep.crypto.store import SecretStore

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def register(subparsers: Subparsers) -> None:
    """Add `certs` and its verbs."""
    from redkeep.cli.passphrase import add_folder_option

    parser = subparsers.add_parser("certs", help="list, inspect, renew and export certificates")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="list every certificate with its names and days left")
    listing.set_defaults(func=_list)

    inspect = verbs.add_parser("inspect", help="show the content of one certificate")
    inspect.add_argument(
        "certificate", metavar="FILE_OR_NAME", help="a PEM file, or a name from `certs list`"
    )
    inspect.set_defaults(func=_inspect)

    renew = verbs.add_parser(
        "renew", help="issue certificates again; the next deploy installs them on the hosts"
    )
    renew.add_argument("names", metavar="NAME", nargs="*")
    renew.add_argument("--all", action="store_true", help="every certificate, as after `new-ca`")
    renew.set_defaults(func=_renew)

    new = verbs.add_parser(
        "new-ca", help="create a new CA beside the old: both are trusted, the new one signs"
    )
    new.set_defaults(func=_new_ca)

    retire = verbs.add_parser("retire-ca", help="trust only the newest CA, once it has signed every certificate")
    retire.set_defaults(func=_retire_ca)

    export = verbs.add_parser("export", help="write a certificate, its key (mode 0600) and the CA certificates")
    export.add_argument("name", metavar="NAME")
    export.add_argument("folder", metavar="DIR", type=Path)
    export.add_argument("--force", action="store_true", help="replace files that exist")
    export.set_defaults(func=_export)
    for verb in (listing, inspect, renew, new, retire, export):
        add_folder_option(verb)


def _list(args: argparse.Namespace) -> int:
    from redkeep.cli.table import age, remaining, render

    store = _open(args)
    leaves = store.leaves()
    rows = []
    for row in store.entries():
        if row.ends:
            names = ", ".join(leaves[row.name].names) if row.name in leaves else ""
            rows.append(
                (row.name or "-", row.kind, names, age(row.made), remaining(row.ends), row.fingerprint)
            )
    print(render(("NAME", "KIND", "FOR", "MADE", "EXPIRES", "SHA-256"), rows))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from redkeep.cli.table import printable, remaining
    from redkeep.crypto.certificate import describe

    path = Path(args.certificate)
    try:
        pem = path.read_bytes() if path.is_file() else _leaf(_open(args), args.certificate).cert_pem
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    info = describe(pem)
    lines = {
        "common name": info.common_name,
        "names": ", ".join(info.names) or "none",
        "use": "CA" if info.is_authority else info.use or "neither server nor client",
        "issuer": info.issuer,
        "not before": f"{info.not_before:%Y-%m-%d %H:%M} UTC",
        "not after": f"{info.not_after:%Y-%m-%d %H:%M} UTC ({remaining(info.not_after.isoformat())})",
        "serial": f"{info.serial:x}",
        "SHA-256": info.fingerprint,
    }
    for label, value in lines.items():
        print(f"{label + ':':<13}{printable(value)}")
    return 0


def _renew(args: argparse.Namespace) -> int:
    if bool(args.names) == args.all:
        raise ConfigurationError("name the certificates to renew, or give --all")
    store = _open(args)
    names = list(store.leaves()) if args.all else args.names
    with store.transaction():
        fresh = {name: store.renew(name) for name in names}
    for name, leaf in fresh.items():
        print(f"renewed {name}, until {leaf.not_after:%Y-%m-%d}")
    return 0


def _new_ca(args: argparse.Namespace) -> int:
    _open(args).add_authority()
    print("made a new CA, trusted beside the old")
    print("next: deploy, so that every host trusts both; then `redkeep certs renew --all` and deploy again;")
    print("then `redkeep certs retire-ca` and deploy once more, so that the old one is no longer trusted")
    return 0


def _retire_ca(args: argparse.Namespace) -> int:
    store = _open(args)
    old = store.old_leaves()
    if old:
        raise ConfigurationError(
            f"an older CA signed {', '.join(old)}: run `redkeep certs renew --all` and deploy first"
        )
    if not store.retire_authorities():
        print("there is only one CA; nothing was changed")
    else:
        print("only the newest CA is left; deploy, so that no host trusts another")
    return 0


def _export(args: argparse.Namespace) -> int:
    from redkeep.cli.files import write_file

    store = _open(args)
    leaf = _leaf(store, args.name)
    files = {
        f"{args.name}.key": (leaf.key_pem, 0o600),
        f"{args.name}.crt": (leaf.cert_pem, 0o644),
        "ca.crt": (store.trust_bundle(), 0o644),
    }
    taken = [name for name in files if (args.folder / name).exists()]
    if taken and not args.force:
        raise ConfigurationError(f"{args.folder} already has {', '.join(taken)}; give --force to replace")
    try:
        args.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot create {args.folder}: {error.strerror}") from None
    for name, (content, mode) in files.items():
        write_file(args.folder / name, content, mode=mode, force=args.force)
        print(f"wrote {args.folder / name} (mode {mode:04o})")
    return 0


def _open(args: argparse.Namespace) -> SecretStore:
    from redkeep.cli.passphrase import open_store

    return open_store(args.secrets)


def _leaf(store: SecretStore, name: str) -> Leaf:
    leaf = store.leaves().get(name)
    if leaf is None:
        raise SecretStoreError(f"there is no certificate named {name!r}; see `redkeep certs list`")
    return leaf
