"""Where an image comes from, whatever is in it: built here, loaded from an archive, or pulled by its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploys.difference import encode
from deploys.facts.docker import VERSIONS, DockerState
from deploys.facts.survey import Survey
from deploys.image_archive import ImageArchive, read_archive
from deploys.rendering import ROOT

# Flags of a container that is to say a word about its image: no network, no rights, nothing to write to.
BARE = "--rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges --user 65534:65534"


@dataclass(frozen=True)
class ImageSource:
    """``repository`` is the image's name on hosts; ``knob`` says where it comes from, and ``wanted`` is its value: empty for one
    that is built on the host, a reference with its digest, or the path of an archive."""

    repository: str
    knob: str
    wanted: str

    def archive(self) -> ImageArchive | None:
        """The operator's file that the image comes from, if it comes from one. Raises ConfigurationError for a bad one."""
        if not self.wanted or "@" in self.wanted:
            return None
        return read_archive(ROOT / Path(self.wanted).expanduser(), knob=self.knob)

    def reference(self, built: bytes) -> str:
        """The image as compose.yaml names it: another content has another name. ``built`` tells what a built one is made from."""
        if not self.wanted:
            return f"{self.repository}:debian-{hashlib.sha256(built).hexdigest()[:16]}"
        file = self.archive()
        kind, digest = ("archive", file.id) if file else ("registry", self.wanted)
        return f"{self.repository}:{kind}-{digest.rpartition(':')[2][:16]}"

    def bring(self, name: str) -> tuple[str, str | Callable[[], str]]:
        """Shell that loads or pulls the image and keeps it under our name alone, and its standard input."""
        if (file := self.archive()) is not None:
            return _load(file, name), lambda: encode(file.path.read_bytes())
        return _pull(self.wanted, name), ""

    def problem(self, survey: Survey, room: int) -> str:
        """Why the image cannot come to this host; "" when it can. ``room`` is the KiB that it needs beside an archive's size."""
        file = self.archive()
        needed = room + (3 * file.size // 1024 if file else 0)
        if file and file.architecture != (own := survey.host.get("arch", file.architecture)):
            return (
                f"the image in {file.path} is for {file.architecture or 'an unknown architecture'}, this host is {own}: "
                f"save one for {own}."
            )
        docker = survey.docker
        if docker.room is not None and docker.room < needed:
            return f"{docker.room // 1024} MiB are free for images, {needed // 1024} MiB are needed: make room in {docker.root}."
        return ""


def identity(docker: DockerState, name: str) -> str:
    """The id of the image under a name; "" while the host does not have it, or has another one under the name than came."""
    found = docker.images.get(name, "")
    return found if found == docker.noted.get(name, found) else ""


def note(name: str) -> str:
    """Shell that notes an image's id and the "$version" it has told."""
    return f"""id=$(docker image inspect --format '{{{{.Id}}}}' {name})
{{ grep -v "^$id " {VERSIONS} 2>/dev/null || true; echo "$id $version {name}"; }} > {VERSIONS}.new; mv {VERSIONS}.new {VERSIONS}"""


def _load(file: ImageArchive, name: str) -> str:
    return f"""loaded=$(base64 -d | docker load --quiet 2>&1) || {{ echo "the image of {file.path.name} cannot be loaded: $loaded" >&2; exit 1; }}
docker tag {file.id} {name} || {{ echo "{file.path.name} contained another image than {file.id}" >&2; exit 1; }}
was=$(echo "$loaded" | sed -n 's/^Loaded image: //p')
[ -z "$was" ] || docker rmi "$was" >/dev/null 2>&1 || true"""


def _pull(wanted: str, name: str) -> str:
    came = re.sub(r":[^:/@]+@", "@", wanted)
    return f"""said=$(docker pull --quiet {wanted} 2>&1) || {{
    echo "the image {wanted} cannot be pulled: $(echo "$said" | tail -1)" >&2; exit 1; }}
docker tag {came} {name}; docker rmi {came} >/dev/null 2>&1 || true"""
