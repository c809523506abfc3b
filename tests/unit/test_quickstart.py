"""`redkeep quickstart`: what its files hold, what a second run does, and what is refused before anything is written."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path

import pytest

from deploys.rendering import render
from deploys.server_settings import line, server_settings
from redkeep.cli import main, quickstart
from redkeep.crypto.store import SecretStore
from redkeep.stack.compose import env_values
from redkeep.stack.quickstart import free_subnet, own_networks
from redkeep.target import read_target
from tests.redis.server import free_port
from tests.unit.wanted import ROOT, bundle

Captured = pytest.CaptureFixture[str]
REDIS, API, DASHBOARD = (str(free_port()) for _ in range(3))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make(folder: Path, *arguments: str) -> int:
    return main(["quickstart", str(folder), *arguments])


def test_no_secret_stands_outside_its_file(tmp_path: Path) -> None:
    """Passwords and keys are in cache.env, the health check's file and the store, each closed to others; hashes elsewhere."""
    assert make(tmp_path / "dev") == 0
    found = tree(tmp_path / "dev")
    store = SecretStore.open(tmp_path / "dev/secrets")
    words = [store.password(user).encode() for user in store.users()] + [key.encode() for key in store.encryption_keys()]
    holders = {path for path, (_, content) in found.items() if any(word in content for word in words)}
    assert {"cache.env", "redis/health/password", "secrets/secrets.json"} == holders
    assert [] == [path for path, (mode, _) in found.items() if mode & 0o007]
    assert b"*" in found[".gitignore"][1].splitlines()


def test_a_second_run_changes_nothing(tmp_path: Path, capsys: Captured) -> None:
    """Secrets, certificates and the network are kept; the words say that nothing was changed."""
    make(tmp_path / "dev")
    before = tree(tmp_path / "dev")
    assert make(tmp_path / "dev") == 0
    assert before == tree(tmp_path / "dev")
    assert "nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [(), ("--port", REDIS), ("--port", REDIS, "--api", API, "--dashboard", DASHBOARD)],
    ids=["no port", "redis", "redis, api, dashboard"],
)
def test_every_variable_has_a_value(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """compose.yaml and its override name no variable that .env has not, and .env none that they do not use."""
    make(tmp_path / "dev", *arguments)
    texts = "".join(path.read_text() for path in (tmp_path / "dev").glob("compose*.yaml"))
    given = env_values((tmp_path / "dev/.env").read_text())
    assert set(re.findall(r"\$\{(\w+):\?\}", texts)) == set(given) - {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}
    assert len(arguments) // 2 == texts.count("ports:")


def test_a_port_comes_and_goes(tmp_path: Path) -> None:
    """Asked for, the loopback address leads to the server; not asked for any more, the override is gone and the address is back."""
    for arguments, host in (((), "10.214."), (("--port", REDIS), "127.0.0.1"), ((), "10.214.")):
        make(tmp_path / "dev", *arguments)
        assert read_target(tmp_path / "dev/cache.env").address.host.startswith(host)
        assert bool(arguments) == (tmp_path / "dev/compose.port.yaml").exists()


def test_the_api_and_the_dashboard_come_and_go(tmp_path: Path) -> None:
    """The dashboard brings the API; not asked for any more, neither leaves a key behind, and the store keeps it."""
    make(tmp_path / "dev", "--dashboard", DASHBOARD)
    key = (tmp_path / "dev/dashboard/key").read_text()
    names = env_values((tmp_path / "dev/.env").read_text())["COMPOSE_FILE"]
    assert "compose.yaml:compose.api.yaml:compose.dashboard.yaml" == names
    make(tmp_path / "dev")
    assert [] == [path for path in tree(tmp_path / "dev") if re.search("api|dashboard", path)]
    make(tmp_path / "dev", "--api", API)
    assert key == (tmp_path / "dev/api/key").read_text()


def test_the_app_reads_what_was_written(tmp_path: Path) -> None:
    """cache.env is a whole set of settings: TLS, the cache's user, the files by which it shows itself."""
    make(tmp_path / "dev with a blank")
    target = read_target(tmp_path / "dev with a blank/cache.env")
    assert (True, "cache_service", 6380) == (target.tls, target.username, target.address.port)
    assert target.cert_file is not None
    assert target.cert_file.read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_the_server_s_settings_are_those_of_a_deploy(tmp_path: Path) -> None:
    """redis.conf, line by line, is what redis_runtime "docker" writes with the defaults of group_data."""
    make(tmp_path / "dev", "--memory", "512")
    text = (tmp_path / "dev/redis/redis.conf").read_text()
    listens = next(words for words in text.splitlines() if words.startswith("bind ")).split()[1:]
    sections = server_settings(
        bundle(redis_runtime="docker", redis_maxmemory="512mb"), addresses=tuple(listens), memory_bytes=2**31, certificates="/etc/redis/tls"
    )
    expected = render("etc/redis/redis.conf", sections=sections, line=line).decode()
    assert [text for text in expected.splitlines()[2:] if text] == [text for text in text.splitlines()[1:] if text]


def test_another_file_means_another_container(tmp_path: Path) -> None:
    """The label follows what the server reads at its start, so that `up -d` alone applies a change."""
    def spec() -> str:
        return env_values((tmp_path / "dev/.env").read_text())["REDIS_SPEC"]

    make(tmp_path / "dev")
    first = spec()
    make(tmp_path / "dev", "--memory", "300")
    second = spec()
    SecretStore.open(tmp_path / "dev/secrets").rotate_password("cache_service")
    make(tmp_path / "dev", "--memory", "300")
    assert len({first, second, spec()}) == 3


def test_the_network_is_free_and_the_folder_s_own() -> None:
    """Two folders get two networks, the same folder the same one, and one that the machine uses is left out."""
    one, two = Path("/a/one"), Path("/a/two")
    assert free_subnet(one, []) == free_subnet(one, []) != free_subnet(two, [])
    assert not free_subnet(one, [free_subnet(one, [])]).overlaps(free_subnet(one, []))
    routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100A8C0\t3\t0\t0\t0\t00000000\n"
    routes += "br0\t0000D60A\t00000000\t1\t0\t0\t0\tE0FFFFFF\n"
    assert [ipaddress.IPv4Network("10.214.0.0/27")] == list(own_networks(routes))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--port", "70000"), "--port must be 1 to 65535"),
        (("--image", "Not an image"), "--image is not the name of an image"),
        (("--api", "18765", "--port", "18765"), "--port, --api and --dashboard share a port"),
        (("--memory", "1"), "--memory is a number of MiB"),
        (("--subnet", "127.0.0.0/16"), "--subnet 127.0.0.0/16 overlaps with 127.0.0.0/8"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    """One sentence that names the option, exit code 2, and no folder."""
    monkeypatch.setattr(quickstart, "_routes", lambda: "head\nlo\t0000007F\t00000000\t1\t0\t0\t0\t000000FF\n")
    assert make(tmp_path / "dev", *arguments) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "dev").exists()


@pytest.mark.parametrize(
    "network", ["", "nonsense", "10.214.0.0/99", "10.214.0.3/28", "::/64", "8.8.8.0/28", "10.214.0.0/30", "0.0.0.0/0", "10.0.0.0/8"]
)
def test_a_network_that_was_garbled_by_hand_is_named(tmp_path: Path, capsys: Captured, network: str) -> None:
    """The variable in .env and what to do, in one sentence, and no file is changed; --subnet is the way out."""
    make(tmp_path / "dev")
    path = tmp_path / "dev/.env"
    path.write_text(re.sub("(?m)^INTERNAL_SUBNET=.*$", f"INTERNAL_SUBNET={network}", path.read_text()))
    before = tree(tmp_path / "dev")
    capsys.readouterr()
    assert make(tmp_path / "dev") == 2
    said = capsys.readouterr().err
    assert "INTERNAL_SUBNET in" in said
    assert "give --subnet" in said
    assert 1 == said.count("\n")
    assert before == tree(tmp_path / "dev")
    assert make(tmp_path / "dev", "--subnet", "10.214.9.0/27") == 0


@pytest.mark.parametrize("content", [b"\xff\xfe", b"INTERNAL_SUBNET"])
def test_an_env_file_that_is_none_is_no_traceback(tmp_path: Path, capsys: Captured, content: bytes) -> None:
    """Bytes that are no text are named; a file without variables is written again."""
    make(tmp_path / "dev")
    (tmp_path / "dev/.env").write_bytes(content)
    code = make(tmp_path / "dev")
    assert (2, True) == (code, ".env is not a text file" in capsys.readouterr().err) if content[0] > 127 else code == 0


def test_no_registry_is_asked_for_what_make_image_builds(tmp_path: Path) -> None:
    """Compose pulls what is missing, and anybody may own a name in a public registry: the names lead to this machine alone."""
    make(tmp_path / "dev", "--dashboard", DASHBOARD)
    given = env_values((tmp_path / "dev/.env").read_text())
    names = {f"localhost/redkeep/{extra}" for extra in ("api", "dashboard")}
    assert names == {given["API_IMAGE"], given["DASHBOARD_IMAGE"]}
    script = (ROOT / "deploys/image.sh").read_text()
    assert '--tag "localhost/redkeep/$extra"' in script


def test_a_tag_is_called_one(tmp_path: Path, capsys: Captured) -> None:
    """Who takes an image by its tag is told how to pin it; who has pinned it is not."""
    assert make(tmp_path / "a") == 0
    assert "pin      redis:7-alpine can change over time" in capsys.readouterr().out
    assert make(tmp_path / "b", "--image", f"redis@sha256:{'a1' * 32}") == 0
    assert "pin " not in capsys.readouterr().out


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: Captured) -> None:
    """The sentence names the port; the one that the stack has already is no obstacle."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert make(tmp_path / "dev", "--port", port) == 2
        assert f"--port {port} is in use" in capsys.readouterr().err
    assert make(tmp_path / "dev", "--port", port) == 0
    with socket.create_server(("127.0.0.1", int(port))):
        assert make(tmp_path / "dev", "--port", port) == 0


def test_a_port_that_a_moment_ago_had_connections_is_free(tmp_path: Path) -> None:
    """As after `docker compose down`: what the kernel keeps of connections that have ended hinders nobody."""
    with socket.create_server(("127.0.0.1", 0)) as before:
        port = before.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            before.accept()[0].close()
            assert client.recv(1) == b""
    assert make(tmp_path / "dev", "--port", str(port)) == 0


@pytest.mark.parametrize("folder", ["/proc/none", "a file/dev", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_sentence(folder: str, tmp_path: Path, capsys: Captured) -> None:
    """Which folder it was, and what the system says of it."""
    (tmp_path / "a file").touch()
    assert make(tmp_path / folder) == 2
    assert re.fullmatch(rf"redkeep: {re.escape(str(tmp_path / folder))}: .+; choose a folder that you may write to\n", capsys.readouterr().err)


def test_a_folder_of_others_is_left_alone(tmp_path: Path, capsys: Captured) -> None:
    """Files that quickstart did not make are neither mixed with nor replaced."""
    (tmp_path / "compose.yaml").write_text("mine")
    assert make(tmp_path) == 2
    assert "contains files that quickstart did not make" in capsys.readouterr().err
    assert ["compose.yaml"] == [path.name for path in tmp_path.iterdir()]
