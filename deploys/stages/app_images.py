"""The images of the API and the dashboard: built on the host from its Python and the locked wheels, loaded, or pulled by digest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import partial

from pyinfra.api import DeployError, deploy

from deploys import release
from deploys.difference import Difference, encode
from deploys.facts.docker import IMAGES
from deploys.facts.survey import Question, Survey
from deploys.operations.converge import converge
from deploys.rendering import ROOT
from deploys.site import Site
from deploys.stages import image, image_source
from deploys.stages.image_source import BARE, ImageSource, note
from redkeep.errors import ConfigurationError

DOCKERFILE = ROOT / "app" / "Dockerfile"
BASE = f"{IMAGES}/python"

# What each extra cannot do without, libraries of the system among it: an image proves itself by importing them.
MODULES = {"api": "redkeep.api.application, uvicorn", "dashboard": "streamlit, pandas, pyarrow"}

# Measured, and doubled: layers of the build are there beside those of the image. The base is counted with the API.
ROOM_KIB = {"api": 512 * 1024, "dashboard": 2 * 1024 * 1024}

# Whose files the base is made of.
BASE_PACKAGES = ("python3*", "libpython3*", "libc6", "libssl3*", "libstdc++6", "libgcc-s1", "zlib1g", "dash", "ca-certificates")
# An image that a deploy has named; those of `make image` have other tags.
OURS = rf"{IMAGES}/(redis|python|api|dashboard):(debian|archive|registry)-[0-9a-f]{{16}}"

# Gathers the host's Python, a shell for the build, the libraries of both and of wheels, and the authorities that it trusts.
_MAKE_BASE = """v=$(/usr/bin/python3 -I -S -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
b=$(mktemp -d /var/lib/redkeep/.image.XXXXXX); mkdir "$b/files"
{ echo /usr/bin/python3; find /usr/lib/$v /usr/share/python-wheels; cd /usr/lib/$v/lib-dynload
  dpkg -L libc6 libgcc-s1 libstdc++6 zlib1g | grep '\\.so' | grep -v /gconv/
  for f in /usr/bin/$v /bin/dash ./*.so; do echo "$f"; ldd "$f" | grep -o '/[^ ]*' || true; done
} | grep '^/' | sort -u | while read -r f; do [ ! -f "$f" ] || echo ".$f"; done > "$b/list"
tar --directory / --create --dereference --files-from "$b/list" | tar --directory "$b/files" --extract
cd "$b/files"; ln bin/dash bin/sh; mkdir -m 1777 tmp; mkdir -p etc/ssl/certs usr/lib/ssl
cp /etc/ssl/openssl.cnf etc/ssl/; cp /etc/ssl/openssl.cnf usr/lib/ssl/
cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/; ln -s /etc/ssl/certs/ca-certificates.crt usr/lib/ssl/cert.pem
echo 'hosts: files dns' > etc/nsswitch.conf; echo 'root:x:0:0:root:/:/bin/sh' > etc/passwd; echo 'root:x:0:' > etc/group
tar --create . | docker import - BASE >/dev/null; rm -rf "$b"; cd /"""


def wanted(site: Site) -> tuple[str, ...]:
    """The extras of the package that this host runs in containers."""
    return tuple(
        extra for extra, there in (("api", site.bundle.api_in_container), ("dashboard", site.bundle.has_dashboard)) if there
    )


def question(site: Site) -> Question:
    return Question(packages=BASE_PACKAGES) if wanted(site) else Question()


def source(site: Site, extra: str) -> ImageSource:
    knobs = site.bundle.knobs
    return ImageSource(f"{IMAGES}/{extra}", f"{extra}_image", knobs.api_image if extra == "api" else knobs.dashboard_image)


def _base_files(survey: Survey) -> bytes:
    """What tells one base from another: the versions of the packages, and how it is made."""
    found = sorted(name for name in survey.packages if any(fnmatch(name, pattern) for pattern in BASE_PACKAGES))
    return "".join(f"{name} {survey.packages[name]}\n" for name in found).encode() + _MAKE_BASE.encode()


def base(survey: Survey) -> str:
    """The image that has the host's Python and nothing of ours."""
    return ImageSource(BASE, "", "").reference(_base_files(survey))


def reference(site: Site, survey: Survey, extra: str) -> str:
    """The image as compose.yaml names it: another package, Python or list means another name."""
    content = _base_files(survey) + release.source_digest(extra).encode() + DOCKERFILE.read_bytes()
    return source(site, extra).reference(content)


def identity(site: Site, survey: Survey, extra: str) -> str:
    """The image's id; "" while the host does not have it, or has another one under its name."""
    return image_source.identity(survey.docker, reference(site, survey, extra))


def images(site: Site, survey: Survey) -> Iterator[Difference]:
    """The wanted images are there, and the package in each has told its version by running."""
    for extra in wanted(site):
        name, found = reference(site, survey, extra), identity(site, survey, extra)
        if not found:
            wrong = "differs from the recorded one" if name in survey.docker.images else "is missing"
            where = source(site, extra)
            script, stdin = (
                where.bring(name)
                if where.wanted
                else (
                    _build(site, survey, extra),
                    partial(_context, site, survey, extra),
                )
            )
            yield Difference(f"image {name} {wrong}", f"{script}\n{told_version(extra, name)}", stdin)
        elif found not in survey.docker.versions:
            yield Difference(f"image {name} has not reported the version of its package", told_version(extra, name))


def _context(site: Site, survey: Survey, extra: str) -> str:
    """What app/Dockerfile is built from, as standard input."""
    python, architecture = survey.host.get("python", ""), survey.host.get("arch", "")
    if not python:
        return ""
    try:
        return encode(release.archive(python, architecture, site.bundle.knobs.package_source, extra=extra, more=[DOCKERFILE]))
    except ConfigurationError as error:
        raise DeployError(str(error)) from None


def _build(site: Site, survey: Survey, extra: str) -> str:
    """Shell that builds app/Dockerfile on the host's own Python, from the archive on standard input; the build has no network."""
    name, on = reference(site, survey, extra), base(survey)
    first = f"{IMAGES}/build:{extra}"
    arguments = {"IMAGE": BASE, "TAG": on.rpartition(":")[2], "EXTRA": extra, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "."}
    build = "docker build --quiet --network none " + " ".join(f"--build-arg {key}={value}" for key, value in arguments.items())
    fetch = f"""python3 -m venv "$t/venv"; "$t/venv/bin/pip" --quiet --disable-pip-version-check --no-input download \\
    --require-hashes --only-binary :all: --no-deps --requirement requirements-{extra}.lock --dest . || {{
    echo 'pip cannot fetch the package: name an index (and its CA) in /etc/pip.conf on the host, or set package_source to wheelhouse.' >&2
    exit 1
}}"""
    return f"""umask 022; t=$(mktemp -d /var/lib/redkeep/.image.XXXXXX); trap 'rm -rf "$t" "${{b:-}}"' EXIT
mkdir "$t/context"; base64 -d | tar --directory "$t/context" -xz
if ! docker image inspect {on} >/dev/null 2>&1; then
{_MAKE_BASE.replace("BASE", on)}
fi
cd "$t/context"; mv {release.LOCK.name} requirements-{extra}.lock
{fetch if site.bundle.knobs.package_source == "index" else ":"}
export DOCKER_BUILDKIT=0
{{ {build} --target build --tag {first} . && {build} --tag {name} .; }} >/dev/null 2>"$t/out" </dev/null || {{
    cat "$t/out" >&2; docker rmi {first} >/dev/null 2>&1 || true; exit 1; }}
docker rmi {first} >/dev/null 2>&1 || true"""


def told_version(extra: str, name: str) -> str:
    """Shell that runs the package of an image for a moment and notes its version."""
    return f"""said=$(docker run {BARE} {name} --version 2>&1) || {{
    echo "the image {name} does not run redkeep: $(echo "$said" | tail -1)" >&2; exit 1; }}
version=$(echo "$said" | sed -n 's/^redkeep \\([0-9][^ ]*\\)$/\\1/p')
[ -n "$version" ] || {{ echo "the image {name} contains no redkeep: $(echo "$said" | head -1)" >&2; exit 1; }}
said=$(docker run {BARE} --entrypoint python3 {name} -c 'import {MODULES[extra]}' 2>&1) || {{
    echo "the image {name} contains a redkeep that cannot load its extra {extra}: $(echo "$said" | tail -1)" >&2; exit 1; }}
{note(name)}"""


def problem(site: Site, survey: Survey) -> str:
    """Why the images cannot come to this host; "" when they can, or are there. Raises ConfigurationError for a bad archive."""
    room = 0 if image.identity(site, survey) else image.ROOM_KIB
    for extra in wanted(site):
        if not identity(site, survey, extra):
            room += ROOM_KIB[extra]
            if said := source(site, extra).problem(survey, room):
                return said
    return ""


def old_images(site: Site, survey: Survey) -> Iterator[Difference]:
    """Images of ours that neither the deploy nor a container names any more."""
    names = {image.reference(site, survey), *(reference(site, survey, extra) for extra in wanted(site))}
    # A container that was not made anew yet needs its image, unless that has a wanted name as well.
    busy = {c.image for c in survey.docker.containers} - {survey.docker.images.get(name, "") for name in names}
    if any(not source(site, extra).wanted for extra in wanted(site)):
        names.add(base(survey))
    for name, found in survey.docker.images.items():
        if re.fullmatch(OURS, name) and found not in busy and name not in names:
            yield Difference(f"image {name} is no longer in use", f"docker rmi {name} >/dev/null")


@deploy("Images of the app")
def app_images(site: Site) -> None:
    converge(site, images, name="Get the images of the API and the dashboard")
