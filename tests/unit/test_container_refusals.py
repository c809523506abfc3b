"""What keeps Redis out of a container on a host, each said in one sentence before anything is touched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deploys.facts.docker import VERSIONS, Container, DockerState
from deploys.facts.survey import FileState
from deploys.image_archive import read_archive
from deploys.stages import container_engine, image, preflight, server
from deploys.stages.machine import STATE
from redkeep.errors import ConfigurationError
from tests.unit.wanted import FakeSite, bundle, survey, there

GIB = 2**20
DIGEST = "sha256:" + "a1" * 32


def state(**changes: Any) -> DockerState:
    engine: dict[str, Any] = {"server": "20.10.24", "compose": "docker-compose", "identity": "100:102", "processors": 2, "room": 9 * GIB}
    return DockerState(**(engine | changes))


def site(**knobs: Any) -> Any:
    return FakeSite(bundle(redis_runtime="docker", **knobs))


def said(docker: DockerState, *, host: dict[str, str] | None = None, files: dict[str, Any] | None = None, **knobs: Any) -> str:
    return preflight.container(site(**knobs), survey(docker=docker, host=host or {}, files=files or {}))


def archive(path: Path, *, architecture: str = "amd64", images: int = 1, packed: bool = False, without: Sequence[str] = ()) -> str:
    """What `docker save` writes, as far as it is read; returns the id of the image."""
    config = json.dumps({"architecture": architecture}).encode()
    digest = hashlib.sha256(config).hexdigest()
    members = {f"{digest}.json": config, "manifest.json": json.dumps([{"Config": f"{digest}.json"}] * images).encode()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in [name for name in members if not name.endswith(tuple(without) or "?")]:
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            file.addfile(info, io.BytesIO(members[name]))
    path.write_bytes(gzip.compress(buffer.getvalue()) if packed else buffer.getvalue())
    return f"sha256:{digest}"


@pytest.mark.parametrize(
    ("changes", "knobs", "part"),
    [
        ({}, {}, ""),
        ({"server": ""}, {}, ""),
        ({"server": "19.03.15"}, {}, "its container engine is 19.03.15: 20.10 or later is needed"),
        ({"compose": ""}, {}, "install docker-compose"),
        ({"settings": None}, {}, "/etc/docker/daemon.json is not a JSON object"),
        ({"foreign": 2}, {}, "2 other containers run on its engine"),
        ({"foreign": 2}, {"docker_engine": "as-found"}, ""),
        ({"room": 300 * 1024}, {}, "300 MiB are free for images, 512 MiB are needed"),
        ({"room": 0}, {}, "0 MiB are free for images, 512 MiB are needed"),
        ({"room": 0, "root": "/srv/images"}, {}, "make room in /srv/images."),
        ({"room": None}, {}, ""),
        ({"routes": ("10.9.8.0/24",)}, {"container_subnet": "10.9.8.0/28"}, "overlaps with 10.9.8.0/24"),
        ({}, {"container_memory": "1mb"}, "leaves too little room beside redis_maxmemory"),
        ({}, {"container_cpus": "2"}, ""),
        ({}, {"container_cpus": "2.5"}, "container_cpus 2.5 is more than the 2 processors of @local"),
        ({"processors": 1}, {"container_cpus": "2"}, "more than the one processor of @local"),
        ({}, {"container_image": "images/none.tar"}, "images/none.tar cannot be read: No such file or directory"),
    ],
)
def test_an_engine_is_judged_before_it_is_used(changes: dict[str, Any], knobs: dict[str, Any], part: str) -> None:
    """Age, compose, settings, others' containers, room, networks, limits and archives."""
    found = said(state(**changes), **knobs)
    assert (bool(part), True) == (bool(found), part in found)
    assert "\n" not in found


def test_a_host_without_systemd_is_refused() -> None:
    """Nothing would load the firewall and start the stack at boot."""
    assert "it runs without systemd" in said(state(), host={"systemd": "no"})


def test_settings_that_are_ours_already_disturb_nobody() -> None:
    """Containers of others are no obstacle when the engine's settings do not change, nor on a host we have set up."""
    assert said(state(foreign=3, settings=dict(container_engine.SETTINGS))) == ""
    assert said(state(foreign=3), files={container_engine.BEFORE: there()}) == ""


def test_containers_of_others_under_our_project_s_name_are_not_removed() -> None:
    """Compose names a project after its folder: a stack of somebody else in a folder redkeep/ is refused, not cleared away."""

    def container(**labels: str) -> Container:
        return Container({"Id": "x", "Name": "/redkeep_web_1", "Config": {"Labels": labels}})

    refused = said(state(containers=(container(),)))
    assert "redkeep_web_1" in refused
    assert "give that project another name" in refused
    assert said(state(containers=(container(**{"redkeep.spec": "any"}),))) == ""


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_names_its_image(tmp_path: Path, packed: bool) -> None:
    """The id is that of the content, packed or not, and the reference follows it."""
    path = tmp_path / "redis.tar"
    wanted = archive(path, packed=packed)
    assert wanted == read_archive(path).id
    assert image.reference(site(container_image=str(path)), survey()) == f"localhost/redkeep/redis:archive-{wanted[7:23]}"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is not an image: make it with `docker save --output redis.tar NAME`"),
        (b"\x1f\x8b cut", "is not an image"),
        ({"without": ["manifest.json"]}, "is not an image"),
        ({"without": [f"{hashlib.sha256(json.dumps({'architecture': 'amd64'}).encode()).hexdigest()}.json"]}, "is not an image"),
        ({"images": 2}, "holds 2 images: save only the one you need"),
    ],
)
def test_another_file_is_no_archive(tmp_path: Path, content: Any, part: str) -> None:
    """It is named, and what makes one."""
    path = tmp_path / "redis.tar"
    if isinstance(content, dict):
        archive(path, **content)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=part):
        read_archive(path)


def test_an_image_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """Before it is sent anywhere; once the host has it, nothing is asked any more."""
    path = tmp_path / "redis.tar"
    digest = archive(path, architecture="arm64")
    assert "is for arm64, this host is amd64" in said(state(), host={"arch": "amd64"}, container_image=str(path))
    there_already = state(images={f"localhost/redkeep/redis:archive-{digest[7:23]}": digest})
    assert said(there_already, host={"arch": "amd64"}, container_image=str(path)) == ""


def test_an_image_under_a_name_that_was_given_away_is_fetched_again() -> None:
    """A name that leads to another image than the one that came is a difference."""
    mine, name = site(container_image=f"registry.example/redis@{DIGEST}"), f"localhost/redkeep/redis:registry-{DIGEST[7:23]}"
    for found, words in (({}, "is missing"), ({name: "sha256:evil"}, "differs from the recorded one")):
        wanted = survey(docker=state(images=found, noted={name: "sha256:good"}, versions={"sha256:good": "7.4.1"}))
        assert [f"image {name} {words}"] == [difference.what for difference in image.image(mine, wanted)]
    kept = survey(docker=state(images={name: "sha256:good"}, noted={name: "sha256:good"}, versions={"sha256:good": "7.4.1"}))
    assert [] == list(image.image(mine, kept))


@pytest.mark.parametrize(
    ("version", "shell", "log", "part"),
    [
        ("7.4.1", 0, "Ready to accept connections tls", ""),
        ("6.2.9", 0, "Ready to accept connections", "contains redis-server 6.2.9: 7.0 or later is needed"),
        ("7.4.1", 127, "Ready to accept connections", "has no /bin/sh that finds redis-cli or valkey-cli; its start and"),
        ("7.4.1", 0, "FATAL CONFIG FILE ERROR: tls-port", "does not start redis-server with TLS: FATAL CONFIG FILE ERROR: tls-port"),
    ],
)
def test_an_image_is_tried_before_it_is_used(version: str, shell: int, log: str, part: str, tmp_path: Path) -> None:
    """Its server's version, the shell and the command line that the stack starts it and looks after it with, and that it starts with TLS."""
    fake = f"""#!/bin/sh
case "$*" in
    *--detach*) echo try; echo "$*" >> "{tmp_path}/started"; [ -s "{tmp_path}"/.image.*/crt ] ;;
    "logs "*) echo '{log}' ;;
    "rm "*) touch "{tmp_path}/removed" ;;
    inspect*) echo false ;;
    *"--entrypoint /bin/sh"*) [ {shell} = 0 ] || echo 'exec: "/bin/sh": no such file' >&2; exit {shell} ;;
    run*) echo 'Redis server v={version} sha=0' ;;
    "image inspect"*) echo sha256:some ;;
esac
"""
    (tmp_path / "docker").write_text(fake)
    (tmp_path / "docker").chmod(0o755)
    mine = site()
    script = image.told_version(mine.bundle.engine, "localhost/redkeep/redis:x")
    script = script.replace(VERSIONS, str(tmp_path / "versions")).replace(STATE, str(tmp_path))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-euc", script], env=path, capture_output=True, text=True, check=False)
    assert (bool(part), True) == (done.returncode != 0, part in done.stderr)
    assert bool(part) != (tmp_path / "versions").exists()
    assert (tmp_path / "started").exists() == (tmp_path / "removed").exists() == ("TLS" in part or not part)
    assert [] == list(tmp_path.glob(".image.*"))


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("differ", [("users.acl", "redis.conf"), ("users.acl",), ("redis.conf",)], ids=" ".join)
def test_users_and_configuration_are_tried_together(differ: tuple[str, ...], starts: bool, tmp_path: Path) -> None:
    """One throwaway server gets the new texts, and where it does not start each file stays as it was and nothing lies beside it."""
    mine, folder = site(), tmp_path / "redis"
    leaf = mine.credentials.server("host", ["host"])
    mine.credentials.server = lambda host, names: leaf
    folder.mkdir()
    new = {Path(d.what.split()[1]).name: base64.b64decode(str(d.stdin)) for d in server.configuration(mine, survey(docker=state()))}
    old = new | dict.fromkeys(differ, b"old\n")
    for name, text in old.items():
        (folder / name).write_bytes(text)
    group = mine.bundle.engine.user
    known = {
        f"/etc/redis/{name}": FileState("file", "0640", "root", group, hashlib.sha256(text).hexdigest()) for name, text in old.items()
    }
    fake = f"""#!/bin/sh
case "$*" in
    *--detach*) echo try; for word; do [ ! -f "$word" ] || sha256sum < "$word"; done >> {tmp_path}/tried ;;
    "logs "*) echo '{"Ready to accept connections" if starts else "no such setting"}' ;;
    inspect*) echo false ;;
esac
"""
    for name, text in (("docker", fake), ("chown", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for difference in server.configuration(mine, survey(docker=state(), files=known)):
        script = difference.script.replace("/etc/redis", str(folder))
        done = subprocess.run(["sh", "-euc", script], input=str(difference.stdin), env=path, capture_output=True, text=True, check=False)
        if done.returncode:
            break
    assert starts == (done.returncode == 0), done.stderr
    assert starts or "the new configuration does not start, the old one stays: no such setting" in done.stderr
    assert (new if starts else old) == {file.name: file.read_bytes() for file in folder.iterdir()}
    digests = [hashlib.sha256(new[name]).hexdigest() for name in ("redis.conf", "users.acl")]
    assert digests == [word for word in (tmp_path / "tried").read_text().split() if word != "-"]


def test_a_reference_without_a_digest_is_refused() -> None:
    """A tag may be another image tomorrow."""
    with pytest.raises(ConfigurationError, match="The knob container_image must be empty, a reference with its digest"):
        bundle(redis_runtime="docker", container_image="redis:7-alpine")
