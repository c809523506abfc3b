"""The image of the server: built on the host from the distribution's files, loaded from an archive, or pulled by digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pyinfra.api import deploy

from deploys.difference import Difference, encode
from deploys.engine import Engine
from deploys.facts.docker import PROJECT, VERSIONS
from deploys.facts.survey import Survey
from deploys.image_archive import ImageArchive, read_archive
from deploys.operations.converge import converge
from deploys.rendering import ROOT, render
from deploys.server_settings import DATA
from deploys.site import Site

REPOSITORY = f"{PROJECT}/redis"

# A built image has about 20 MiB; unpacked layers of a pulled one several times that.
ROOM_KIB = 512 * 1024


def binaries(engine: Engine) -> tuple[str, ...]:
    """What a built image holds, beside the libraries it is linked to. Debian's server is one file under several names;
    this one comes with the tools, without the service. The shell runs the health check."""
    return (f"/usr/bin/{engine.name}-check-rdb", engine.cli, "/bin/dash")


def archive(site: Site) -> ImageArchive | None:
    """The operator's file that the image comes from, if it comes from one."""
    wanted = site.bundle.knobs.container_image
    return read_archive(ROOT / Path(wanted).expanduser()) if wanted and "@" not in wanted else None


def reference(site: Site, survey: Survey) -> str:
    """The image as compose.yaml names it, whatever it comes from: another content has another name."""
    if wanted := site.bundle.knobs.container_image:
        file = archive(site)
        kind, digest = ("archive", file.id) if file else ("registry", wanted)
        return f"{REPOSITORY}:{kind}-{digest.rpartition(':')[2][:16]}"
    content = survey.docker.source.encode() + dockerfile(site.bundle.engine)
    return f"{REPOSITORY}:debian-{hashlib.sha256(content).hexdigest()[:16]}"


def identity(site: Site, survey: Survey) -> str:
    """The image's id; "" while the host does not have it, or has another one under its name."""
    name = reference(site, survey)
    found = survey.docker.images.get(name, "")
    return found if found == survey.docker.noted.get(name, found) else ""


def dockerfile(engine: Engine) -> bytes:
    return render("var/lib/redkeep/images/redis/Dockerfile", engine=engine)


def image(site: Site, survey: Survey) -> Iterator[Difference]:
    """The wanted image is there, and the server in it has told its version by running."""
    name, found = reference(site, survey), identity(site, survey)
    engine = site.bundle.engine
    if not found:
        script, stdin = _way(site, name)
        wrong = "is another one than it was" if name in survey.docker.images else "is missing"
        yield Difference(f"image {name} {wrong}", f"{script}\n{told_version(engine, name)}", stdin)
    elif found not in survey.docker.versions:
        yield Difference(f"image {name} has not told the version of its server", told_version(engine, name))


def _way(site: Site, name: str) -> tuple[str, str | Callable[[], str]]:
    """Shell that brings the image under its name, and its standard input."""
    wanted = site.bundle.knobs.container_image
    if not wanted:
        return _build(site.bundle.engine, name), encode(dockerfile(site.bundle.engine))
    if (file := archive(site)) is not None:
        return _load(file, name), lambda: encode(file.path.read_bytes())
    return _pull(wanted, name), ""


def _load(file: ImageArchive, name: str) -> str:
    """Shell that loads the image from standard input and keeps it under our name alone."""
    return f"""loaded=$(base64 -d | docker load --quiet 2>&1) || {{ echo "the image of {file.path.name} cannot be loaded: $loaded" >&2; exit 1; }}
docker tag {file.id} {name} || {{ echo "{file.path.name} held another image than {file.id}" >&2; exit 1; }}
was=$(echo "$loaded" | sed -n 's/^Loaded image: //p')
[ -z "$was" ] || docker rmi "$was" >/dev/null 2>&1 || true"""


def _pull(wanted: str, name: str) -> str:
    """Shell that pulls the image by its digest and keeps it under our name alone."""
    came = re.sub(r":[^:/@]+@", "@", wanted)
    return f"""said=$(docker pull --quiet {wanted} 2>&1) || {{
    echo "the image {wanted} cannot be pulled: $(echo "$said" | tail -1)" >&2; exit 1; }}
docker tag {came} {name}; docker rmi {came} >/dev/null 2>&1 || true"""


def _build(engine: Engine, name: str) -> str:
    """Shell that collects the files and builds the image from the Dockerfile on standard input."""
    return f"""t=$(mktemp -d /var/lib/redkeep/.image.XXXXXX); trap 'rm -rf "$t"' EXIT
base64 -d > "$t/Dockerfile"; mkdir "$t/files"
for f in {" ".join(binaries(engine))}; do echo $f; ldd $f | grep -o '/[^ ]*'; done | sort -u | while read -r f; do
    install -D -m 0755 "$f" "$t/files$f"
done
cd "$t/files"; mkdir -m 0755 -p etc/{engine.name} data; mkdir -m 1777 tmp
mv usr/bin/{engine.name}-check-rdb usr/bin/{engine.package}; ln bin/dash bin/sh
getent passwd root {engine.user} > etc/passwd; getent group root {engine.user} > etc/group
DOCKER_BUILDKIT=0 docker build --quiet --network none --tag {name} "$t" >/dev/null 2>"$t/out" || {{ cat "$t/out" >&2; exit 1; }}"""


def told_version(engine: Engine, name: str) -> str:
    """Shell that runs the server of an image for a moment, in the way it will run, and notes its version."""
    run = "docker run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges --user 65534:65534"
    return f"""said=$({run} --entrypoint {engine.package} {name} --version 2>&1) || {{
    echo "the image {name} does not run {engine.package}: $(echo "$said" | tail -1)" >&2; exit 1; }}
version=$(echo "$said" | sed -n 's/.* v=\\([0-9.]*\\) .*/\\1/p')
[ -n "$version" ] || {{ echo "the image {name} holds no {engine.package}: $(echo "$said" | head -1)" >&2; exit 1; }}
case $version in [0-6].*) echo "the image {name} holds {engine.package} $version: 7.0 or later is needed" >&2; exit 1;; esac
id=$(docker image inspect --format '{{{{.Id}}}}' {name})
{{ grep -v "^$id " {VERSIONS} 2>/dev/null || true; echo "$id $version {name}"; }} > {VERSIONS}.new; mv {VERSIONS}.new {VERSIONS}"""


def try_container(name: str, engine: Engine, *, config: str, acl: str, user: str) -> str:
    """Shell that starts a throwaway server from these files in a container of the image, without a network, and fails
    with its words when it does not come up."""
    return f"""try=$(docker run --detach --network none --read-only --tmpfs {DATA}:uid={user.partition(":")[0]} --cap-drop ALL \\
    --security-opt no-new-privileges --user {user} --env OPENSSL_CONF={engine.folder}/openssl.cnf \\
    --volume {engine.folder}:{engine.folder}:ro --entrypoint {engine.package} {name} \\
    {config} --aclfile {acl} --bind 127.0.0.1 --save '' --appendonly no)
up=no; i=0
while [ $i -lt 100 ]; do
    if docker logs "$try" 2>&1 | grep -q 'Ready to accept connections'; then up=yes; break; fi
    [ "$(docker inspect --format '{{{{.State.Running}}}}' "$try")" = true ] || break
    i=$((i+1)); sleep 0.05
done
words=$(docker logs "$try" 2>&1 | tail -5); docker rm --force --volumes "$try" >/dev/null
if [ $up = no ]; then echo "the new configuration does not start, the old one stays: $words" >&2; exit 1; fi"""


def problem(site: Site, survey: Survey) -> str:
    """Why the image cannot come to this host; "" when it can, or is there. Raises ConfigurationError for a bad archive."""
    if identity(site, survey):
        return ""
    file = archive(site)
    needed = ROOM_KIB + (3 * file.size // 1024 if file else 0)
    if file and file.architecture != (own := survey.host.get("arch", file.architecture)):
        return f"the image in {file.path} is for {file.architecture or 'an unknown architecture'}, this host is {own}: save one for {own}."
    if 0 < survey.docker.room < needed:
        return f"{survey.docker.room // 1024} MiB are free for images, {needed // 1024} are needed: make room in /var/lib/docker."
    return ""


def old_images(site: Site, survey: Survey) -> Iterator[Difference]:
    """Images of ours that neither the deploy nor a container names any more."""
    used = {c.image for c in survey.docker.containers} | {identity(site, survey)}
    for name, found in survey.docker.images.items():
        if name.startswith(f"{REPOSITORY}:") and found not in used:
            yield Difference(f"image {name} is no longer in use", f"docker rmi {name} >/dev/null")


@deploy("Image")
def server_image(site: Site) -> None:
    converge(site, image, name="Get the server's image")
