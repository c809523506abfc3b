"""The image of the server: built on the host from the distribution's files, loaded from an archive, or pulled by digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyinfra.api import deploy

from deploys.difference import Difference, encode
from deploys.engine import Engine
from deploys.facts.docker import IMAGES
from deploys.facts.survey import Survey
from deploys.operations.converge import converge
from deploys.rendering import render
from deploys.server_settings import DATA
from deploys.site import Site
from deploys.stages import image_source
from deploys.stages.image_source import BARE, ImageSource, note

REPOSITORY = f"{IMAGES}/redis"

# A built image has about 20 MiB; unpacked layers of a pulled one several times that.
ROOM_KIB = 512 * 1024


def binaries(engine: Engine) -> tuple[str, ...]:
    """What a built image holds, beside the libraries it is linked to. Debian's server is one file under several names;
    this one comes with the tools, without the service. The shell runs the health check."""
    return (f"/usr/bin/{engine.name}-check-rdb", engine.cli, "/bin/dash")


def source(site: Site) -> ImageSource:
    return ImageSource(REPOSITORY, "container_image", site.bundle.knobs.container_image)


def reference(site: Site, survey: Survey) -> str:
    """The image as compose.yaml names it, whatever it comes from: another content has another name."""
    return source(site).reference(survey.docker.source.encode() + dockerfile(site.bundle.engine))


def identity(site: Site, survey: Survey) -> str:
    """The image's id; "" while the host does not have it, or has another one under its name."""
    return image_source.identity(survey.docker, reference(site, survey))


def dockerfile(engine: Engine) -> bytes:
    return render("var/lib/redkeep/images/redis/Dockerfile", engine=engine)


def image(site: Site, survey: Survey) -> Iterator[Difference]:
    """The wanted image is there, and the server in it has told its version by running."""
    name, found = reference(site, survey), identity(site, survey)
    engine = site.bundle.engine
    if not found:
        script, stdin = _way(site, name)
        wrong = "differs from the recorded one" if name in survey.docker.images else "is missing"
        yield Difference(f"image {name} {wrong}", f"{script}\n{told_version(engine, name)}", stdin)
    elif found not in survey.docker.versions:
        yield Difference(f"image {name} has not reported the version of its server", told_version(engine, name))


def _way(site: Site, name: str) -> tuple[str, str | Callable[[], str]]:
    """Shell that brings the image under its name, and its standard input."""
    if not site.bundle.knobs.container_image:
        return _build(site.bundle.engine, name), encode(dockerfile(site.bundle.engine))
    return source(site).bring(name)


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
    """Shell that runs the server of an image for a moment, in the way it will run, and what the health check runs, has it listen
    with TLS, and notes the server's version. Whatever is at work on the host is not touched."""
    return f"""said=$(docker run {BARE} --entrypoint {engine.package} {name} --version 2>&1) || {{
    echo "the image {name} does not run {engine.package}: $(echo "$said" | tail -1)" >&2; exit 1; }}
version=$(echo "$said" | sed -n 's/.* v=\\([0-9.]*\\) .*/\\1/p')
[ -n "$version" ] || {{ echo "the image {name} contains no {engine.package}: $(echo "$said" | head -1)" >&2; exit 1; }}
case $version in [0-6].*) echo "the image {name} contains {engine.package} $version: 7.0 or later is needed" >&2; exit 1;; esac
docker run {BARE} --entrypoint /bin/sh {name} -c 'command -v redis-cli || command -v valkey-cli' >/dev/null 2>&1 || {{
    echo "the image {name} has no /bin/sh that finds redis-cli or valkey-cli; its start and its health check need them" >&2; exit 1; }}
{_listens(engine, name)}
{note(name)}"""


def _listens(engine: Engine, name: str) -> str:
    """Shell that starts the server of an image with TLS and a certificate of that moment, without a network, and fails with its words
    when it does not come up."""
    return f"""made=$(mktemp -d /var/lib/redkeep/.image.XXXXXX); chmod 0755 "$made"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=try -days 1 -keyout "$made/key" -out "$made/crt" 2>/dev/null
chmod 0644 "$made/key"
try=$(docker run --detach {BARE.removeprefix("--rm ")} --tmpfs {DATA}:mode=1777 --volume "$made:/try:ro" \\
    --entrypoint {engine.package} {name} --port 0 --tls-port 6380 --bind 127.0.0.1 --dir {DATA} --save '' --appendonly no \\
    --tls-cert-file /try/crt --tls-key-file /try/key --tls-ca-cert-file /try/crt) || {{ rm -rf "$made"; exit 1; }}
{_UP}
rm -rf "$made"
if [ $up = no ]; then echo "the image {name} does not start {engine.package} with TLS: $words" >&2; exit 1; fi"""


# Shell that waits for the throwaway server in the container "$try", tells whether it is "$up" and its last "$words", and removes it.
_UP = """up=no; i=0
while [ $i -lt 100 ]; do
    if docker logs "$try" 2>&1 | grep -q 'Ready to accept connections'; then up=yes; break; fi
    [ "$(docker inspect --format '{{.State.Running}}' "$try")" = true ] || break
    i=$((i+1)); sleep 0.05
done
words=$(docker logs "$try" 2>&1 | tail -5); docker rm --force --volumes "$try" >/dev/null"""


def try_container(name: str, engine: Engine, *, config: str, acl: str, user: str) -> str:
    """Shell that starts a throwaway server from these files in a container of the image, without a network, and fails
    with its words when it does not come up."""
    return f"""try=$(docker run --detach --network none --read-only --tmpfs {DATA}:uid={user.partition(":")[0]} --cap-drop ALL \\
    --security-opt no-new-privileges --user {user} --env OPENSSL_CONF={engine.folder}/openssl.cnf \\
    --volume {engine.folder}:{engine.folder}:ro --entrypoint {engine.package} {name} \\
    {config} --aclfile {acl} --bind 127.0.0.1 --save '' --appendonly no)
{_UP}
if [ $up = no ]; then echo "the new configuration does not start, the old one stays: $words" >&2; exit 1; fi"""


def problem(site: Site, survey: Survey) -> str:
    """Why the image cannot come to this host; "" when it can, or is there. Raises ConfigurationError for a bad archive."""
    if identity(site, survey):
        return ""
    return source(site).problem(survey, ROOM_KIB)


@deploy("Image")
def server_image(site: Site) -> None:
    converge(site, image, name="Get the server's image")
