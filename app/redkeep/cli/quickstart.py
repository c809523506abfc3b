"""`redkeep quickstart`: a hardened Redis for one developer's machine, run by plain compose."""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from redkeep.errors import ConfigurationError

if TYPE_CHECKING:
    from redkeep.stack.quickstart import QuickFile

DEFAULT_FOLDER: Final = Path("redkeep-quickstart")
IMAGES: Final = {"redis": "redis:7-alpine", "valkey": "valkey/valkey:8-alpine"}
IMAGE_VERSION: Final = (7, 2)
"""The oldest that carries these tags since 2023; the users' rules for it are those of all later ones."""

OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}

# Compose pulls what is missing. These are made by `make image`, and with a host in front no public registry is asked for them.
API_IMAGE: Final = "localhost/redkeep/api"
API_PORT: Final = 8765
DASHBOARD_IMAGE: Final = "localhost/redkeep/dashboard"
DASHBOARD_PORT: Final = 8501

SERVER_ID: Final = 65532
"""User and group of the containers when root makes the files; another developer's run as the developer."""

_IMAGE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]{0,254}(@sha256:[0-9a-f]{64})?")
_FOLDER: Final = re.compile(r"[\w ./@+,=~-]+")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `redkeep`."""
    parser = subparsers.add_parser(
        "quickstart",
        help="create the files for a hardened Redis on this machine",
        description="Create secrets, certificates, configuration and compose.yaml in a folder; `docker compose up -d` there does the "
        "rest. A second run keeps the secrets and renews certificates that are due.",
    )
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER, help=f"folder to write to (default: {DEFAULT_FOLDER})")
    parser.add_argument("--port", type=int, default=0, metavar="N",
                        help="publish the server on this port of 127.0.0.1 (default: none; Linux reaches it directly)")
    parser.add_argument("--api", type=int, nargs="?", const=API_PORT, default=0, metavar="N",
                        help=f"also run the API, with TLS on this port of 127.0.0.1 (default: {API_PORT})")
    parser.add_argument("--dashboard", type=int, nargs="?", const=DASHBOARD_PORT, default=0, metavar="N",
                        help=f"also run the API and the dashboard, on this port of 127.0.0.1 (default: {DASHBOARD_PORT})")
    parser.add_argument("--api-image", default=API_IMAGE, help=f"its image, from `make image` (default: {API_IMAGE})")
    parser.add_argument("--dashboard-image", default=DASHBOARD_IMAGE, help=f"its image, from `make image` (default: {DASHBOARD_IMAGE})")
    parser.add_argument("--engine", choices=sorted(IMAGES), default="redis", help="redis or valkey (default: redis)")
    parser.add_argument("--image", help="any image of the engine, preferably by digest (default: " + ", ".join(IMAGES.values()) + ")")
    parser.add_argument("--image-version", type=_version, metavar="X.Y",
                        help="version of the server in that image (default: 7.0 or 7.2, the oldest supported)")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB", help="memory for data, in MiB (default: 256)")
    parser.add_argument("--subnet", type=_subnet, metavar="CIDR", help="the stack's network (default: a free one in 10.214.0.0/16)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files and say what to do next. Raises ConfigurationError or SecretStoreError, mostly before anything is written."""
    try:
        return _make(arguments)
    except OSError as error:
        where = error.filename or arguments.folder
        raise ConfigurationError(f"{where}: {error.strerror}; choose a folder that you may write to") from None


def _make(arguments: argparse.Namespace) -> int:
    from redkeep.cli.passphrase import passphrase_from_environment
    from redkeep.crypto.store import SecretStore
    from redkeep.stack.quickstart import Quickstart, free_subnet, own_networks, quickstart_files, writable_folders

    folder = _checked(arguments.folder)
    before = _values_before(folder)
    image = arguments.image or IMAGES[arguments.engine]
    api = arguments.api or (API_PORT if arguments.dashboard else 0)
    images = {"--image": image, "--api-image": arguments.api_image, "--dashboard-image": arguments.dashboard_image}
    for option, image_name in images.items():
        if not _IMAGE.fullmatch(image_name):
            raise ConfigurationError(f"{option} is not the name of an image, such as redis:7-alpine or name@sha256:...")
    if not 16 <= arguments.memory <= 1024**2:
        raise ConfigurationError("--memory is a number of MiB from 16 to 1048576")
    ports = {"port": arguments.port, "api": api, "dashboard": arguments.dashboard}
    if len(asked := [port for port in ports.values() if port]) != len(set(asked)):
        raise ConfigurationError("--port, --api and --dashboard share a port; give each its own")
    for option, name in (("port", "REDIS"), ("api", "API"), ("dashboard", "DASHBOARD")):
        _check_port(f"--{option}", ports[option], before.get(f"{name}_PUBLISHED", ""))
    recorded = _subnet_before(before, folder, replaced=arguments.subnet is not None)
    taken = [network for network in own_networks(_routes()) if recorded is None or not network.subnet_of(recorded)]
    subnet = arguments.subnet or recorded or free_subnet(folder, taken)
    if arguments.subnet and (clash := next((n for n in taken if n.overlaps(subnet)), None)):
        raise ConfigurationError(f"--subnet {subnet} overlaps with {clash}, which this machine uses; choose another")
    version = arguments.image_version or (IMAGE_VERSION if arguments.image is None else OLDEST[arguments.engine])
    wanted = Quickstart(
        folder=folder,
        image=image,
        engine=arguments.engine,
        version=version,
        user=_server_user(),
        subnet=subnet,
        maxmemory_bytes=arguments.memory * 1024**2,
        published=arguments.port,
        api=api,
        api_image=arguments.api_image,
        dashboard=arguments.dashboard,
        dashboard_image=arguments.dashboard_image,
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = SecretStore.open(folder / "secrets", passphrase=passphrase_from_environment(), create=True)
    written = _write(folder, quickstart_files(wanted, store), writable_folders(wanted))
    shown = arguments.folder
    print(f"{shown}: {written} files written" if written else f"{shown}: already complete, nothing was changed")
    print(f"start    cd {shown} && docker compose up -d         (version 1: docker-compose up -d)")
    print(f"use      the variables of {shown}/cache.env; the server is {wanted.url}")
    print(f"check    redkeep status --env-file {shown}/cache.env")
    if "@sha256:" not in image:
        digest = f"$(docker image inspect --format '{{{{index .RepoDigests 0}}}}' {image})"
        print(f'pin      {image} can change over time; to fix its version: docker pull {image}, then add --image "{digest}" to this command')
    if wanted.api:
        call = f'-H "X-API-Key: $(cat {shown}/api/key)" https://127.0.0.1:{wanted.api}/monitoring/security-status'
        print(f"ask      curl --cacert {shown}/client/ca.crt {call}")
    if wanted.dashboard:
        print(f"look     http://127.0.0.1:{wanted.dashboard}")
    return 0


def _checked(path: Path) -> Path:
    """The absolute folder, when it is ours or not there yet."""
    folder = Path(os.path.abspath(path))
    if not _FOLDER.fullmatch(str(folder)):
        raise ConfigurationError("the folder's path contains a character that compose or an env file would misread; choose another")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{path} is not a folder; choose another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "secrets").is_dir():
        raise ConfigurationError(f"{path} contains files that quickstart did not make; choose an empty folder or a new one")
    return folder


def _values_before(folder: Path) -> dict[str, str]:
    """The variables that an earlier run wrote."""
    from redkeep.stack.compose import env_values

    path = folder / ".env"
    try:
        return env_values(path.read_text("utf-8")) if path.is_file() else {}
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not a text file; delete it and run quickstart again") from None


def _subnet_before(before: dict[str, str], folder: Path, *, replaced: bool) -> ipaddress.IPv4Network | None:
    """The network of an earlier run: the server's is its first half. One that is ``replaced`` need not be understood."""
    if (text := before.get("INTERNAL_SUBNET")) is None:
        return None
    try:
        return _subnet(str(ipaddress.IPv4Network(text).supernet()))
    except (ValueError, argparse.ArgumentTypeError):
        if replaced:
            return None
        wrong = f"INTERNAL_SUBNET in {folder / '.env'} is not the network of a stack"
        raise ConfigurationError(f"{wrong}; correct it, or give --subnet with a network such as 10.214.9.0/27") from None


def _check_port(option: str, port: int, before: str) -> None:
    if port == 0 or str(port) == before:
        return
    if not 1 <= port <= 65535:
        raise ConfigurationError(f"{option} must be 1 to 65535; leave it out for no port")
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count; who listens does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = "is in use on this machine" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise ConfigurationError(f"{option} {port} {reason}; choose another") from None


def _routes() -> str:
    try:
        return Path("/proc/net/route").read_text("ascii")
    except OSError:
        return ""  # not Linux: the engine has a machine of its own


def _server_user() -> str:
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{SERVER_ID}:{SERVER_ID}"


def _write(folder: Path, wanted: tuple[QuickFile, ...], writable: tuple[str, ...]) -> int:
    """Write what differs, and return how many files that were."""
    from redkeep.cli.files import write_file

    group = -1 if os.getuid() else SERVER_ID
    for name in sorted({str(Path(file.path).parent) for file in wanted} - {"."} | set(writable)):
        mounted = name != "client"
        (folder / name).mkdir(mode=0o750 if mounted else 0o700, exist_ok=True)
        if mounted and group != -1:
            os.chown(folder / name, group if name in writable else -1, group)
    written = 0
    for file in wanted:
        path = folder / file.path
        if path.is_file() and not path.is_symlink() and path.read_bytes() == file.content:
            continue
        write_file(path, file.content, mode=0o640 if file.mounted else 0o600, force=True)
        if file.mounted and group != -1:
            os.chown(path, -1, group)
        written += 1
    names = {file.path for file in wanted}
    left = [path for part in ("compose.*.yaml", "api/*", "dashboard/*") for path in folder.glob(part)]
    for old in (path for path in left if str(path.relative_to(folder)) not in names):
        old.unlink()
        written += 1
    return written


def _version(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"(\d{1,2})\.(\d{1,2})(\.\d+)?", text)) or int(found[1]) < 7:
        raise argparse.ArgumentTypeError("give a version from 7.0 on, such as 7.4")
    return int(found[1]), int(found[2])


def _subnet(text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        network = ipaddress.IPv4Network("0.0.0.0/0")
    if not network.is_private or not 16 <= network.prefixlen <= 27:
        raise argparse.ArgumentTypeError("give a private IPv4 network between /16 and /27, such as 10.9.8.0/27")
    return network
