"""Who may ask: the key, where it comes from, how often, and what a refusal tells."""

from __future__ import annotations

import contextlib
import io
import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from redkeep.api.limits import Limits
from redkeep.cli import main
from tests.api.service import Api, command, environment, serving
from tests.redis.server import Server

OPEN = {"/health", "/health/live", "/health/ready"}
HEADERS = ("cache-control", "content-security-policy", "referrer-policy", "x-content-type-options", "x-frame-options")


class Started(Exception):
    """It should have refused."""


def refusal(variables: dict[str, str], *words: str) -> str:
    """What `redkeep serve` says instead of starting; in this process, which saves a second of imports each."""
    said, told = io.StringIO(), io.StringIO()

    def start(*_: object, **__: object) -> None:
        raise Started(words)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
        for name in list(os.environ):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr("uvicorn.Server.run", start)
        code = main(["serve", "--port", "0", *words])
    assert (2, "", 1) == (code, told.getvalue(), len(said.getvalue().splitlines())), said.getvalue()
    return said.getvalue()


def test_each_route_but_health_wants_the_key(api: Api) -> None:
    """Without the key, with a wrong one, an empty one, or one more letter: 401, and how to send it; with it, not."""
    document = api.get("/openapi.json").json()
    asked = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods if path not in OPEN]
    assert 16 == len(asked)
    for method, path in asked:
        for key in (None, "", "wrong", api.key + "x", api.key[:-1]):
            answer = api.ask(method, path, headers={} if key is None else {"X-API-Key": key})
            assert (401, True) == (answer.status_code, "X-API-Key" in answer.headers["WWW-Authenticate"]), (path, key)
            assert api.key not in answer.text


def test_a_scrape_may_send_the_key_as_bearer(api: Api) -> None:
    """Prometheus' `authorization` works, with the right key alone."""
    assert 200 == api.get("/metrics", headers={"Authorization": f"Bearer {api.key}"}).status_code
    assert 401 == api.get("/metrics", headers={"Authorization": "Bearer no"}).status_code


def test_a_wrong_key_is_an_event(api: Api) -> None:
    """It is named, with the address and without the key that was tried."""
    api.get("/metrics", headers={"X-API-Key": "guess-me-not"})
    events = api.get("/internal/monitoring/events?kind=api_key_refused").json()["events"]
    assert "127.0.0.1" == events[0]["details"]["address"]
    assert "guess-me-not" not in api.log.read_text() + str(events)


def test_every_answer_has_the_security_headers(api: Api) -> None:
    """Errors too, and none names the server."""
    for path, code in (("/health/live", 200), ("/nowhere", 404), ("/metrics", 401), ("/docs", 404), ("/redoc", 404)):
        answer = api.get(path, headers={})
        assert code == answer.status_code
        assert set(HEADERS) <= set(answer.headers)
        assert "server" not in answer.headers


def test_who_asks_too_often_waits(server: Server, tmp_path: Path) -> None:
    """429 with Retry-After in seconds; who guesses keys shuts out only guessers."""
    with serving(environment(server, redkeep_api_rate_limit=40), tmp_path) as api:
        guesses = [api.get("/metrics", headers={"X-API-Key": "no"}) for _ in range(4)]
        assert [401, 401, 429, 429] == [answer.status_code for answer in guesses]
        assert 1 <= int(guesses[-1].headers["Retry-After"]) <= 30
        assert 200 == api.get("/internal/monitoring/nodes").status_code
        codes = [api.get("/internal/monitoring/nodes").status_code for _ in range(60)]
        assert {200, 429} == set(codes)
        assert 200 == httpx.get(api.url + "/health/live").status_code


def test_a_bucket_refills_and_memory_is_bounded() -> None:
    """A minute's worth at once, then one by one; the client not seen for longest is forgotten."""
    now = 0.0
    limits = Limits(60, clock=lambda: now)
    assert [0] * 60 + [1] == [limits.wait("a", "keyed") for _ in range(61)]
    now = 1.0
    assert [0, 1] == [limits.wait("a", "keyed") for _ in range(2)]
    for number in range(5_000):
        limits.wait(f"b{number}", "keyed")
    assert 4_096 == len(limits._buckets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"redkeep_api_key": None}, "REDKEEP_API_KEY is not set"),
        ({"redkeep_api_key": ""}, "REDKEEP_API_KEY is not set"),
        ({"redkeep_api_key": "a1b2c3d4" * 3}, "shorter than 32"),  # pragma: allowlist secret - refused on purpose
        ({"redkeep_api_key": "ab" * 20}, "different characters"),
        ({"redkeep_api_key": "pass word " * 5}, "a space"),  # pragma: allowlist secret - refused on purpose
        ({"redkeep_api_key_file": "/etc/hostname"}, "both set"),
        ({"redkeep_api_key": None, "redkeep_api_key_file": "/nowhere/key"}, "does not exist"),
        ({"redkeep_api_key": None, "redkeep_api_key_file": "/etc/hostname"}, "open to every user"),
        ({"redkeep_api_older_key": "a1b2c3d4" * 3}, "REDKEEP_API_OLDER_KEY is shorter"),  # pragma: allowlist secret - refused
        ({"redkeep_api_rate_limit": "many"}, "REDKEEP_API_RATE_LIMIT must be"),
        ({"redis_encryption_key": "short"}, "REDIS_ENCRYPTION_KEY"),
        ({"security_alert_email": "nobody"}, "SECURITY_ALERT_EMAIL"),
        ({"security_monitor_nodes": "a:b:c"}, "SECURITY_MONITOR_NODES"),
        ({"security_monitor_otlp_endpoint": "http://collector.example:4318/v1/metrics"}, "SECURITY_MONITOR_OTLP_ENDPOINT"),
    ],
)
def test_wrong_settings_stop_the_start(server: Server, change: dict[str, object], said: str) -> None:
    """One sentence that names the setting and shows no value."""
    variables = environment(server, **change)
    words = refusal(variables)
    assert said in words
    assert not [v for n, v in variables.items() if n.startswith(("REDKEEP_API_KEY", "REDIS_ENC")) and "/" not in v and v and v in words]


def test_a_file_without_a_key(server: Server, tmp_path: Path) -> None:
    """An empty one is named as that, not as a variable that is not set; one of several lines is no key."""
    for content, said in (("\n", f"REDKEEP_API_KEY_FILE: {tmp_path}/key is empty"), ("a1b2c3d4" * 8 + "\nx\n", "contains a space, a line end")):
        write(tmp_path / "key", content)
        assert said in refusal(environment(server, redkeep_api_key=None, redkeep_api_key_file=tmp_path / "key"))


def test_the_key_is_no_other_secret(server: Server) -> None:
    """Neither the password of the cache nor of the monitor."""
    for user in ("cache_service", "monitor"):
        assert "also a password" in refusal(environment(server, redkeep_api_key=server.passwords[user]))


def test_a_key_from_a_file(server: Server, tmp_path: Path) -> None:
    """It is read without its newline, and stands in no log."""
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text("0123456789abcdef" * 4 + "\n")
    variables = environment(server, redkeep_api_key=None, redkeep_api_key_file=path)
    with serving(variables, tmp_path, key="0123456789abcdef" * 4) as api:
        assert 200 == api.get("/internal/monitoring/nodes").status_code
        assert api.key not in api.log.read_text()


def test_two_keys_are_valid_while_one_goes(server: Server, tmp_path: Path) -> None:
    """A running API takes up a new key, and one before, from its files: both pass, at no moment is either refused, who uses the one
    before is counted by address; a file that cannot be read changes nothing; and once its file is gone, the one before is refused."""
    key, older = tmp_path / "key", tmp_path / "older-key"
    first, second = "0123456789abcdef" * 3, "fedcba9876543210" * 3  # pragma: allowlist secret - made up
    write(key, first)
    variables = environment(server, redkeep_api_key=None, redkeep_api_key_file=key, redkeep_api_older_key_file=older, redkeep_api_rate_limit=9999)

    def asked(given: str) -> int:
        return api.get("/internal/monitoring/nodes", headers={"X-API-Key": given}).status_code

    with serving(variables, tmp_path, key=first) as api:
        assert (200, 401) == (asked(first), asked(second))
        write(older, first)
        assert (200, 401) == (asked(first), asked(second))
        write(key, second)
        assert (200, 200) == (asked(second), asked(first))
        use = api.get("/internal/monitoring/older-key", headers={"X-API-Key": second}).json()
        assert (True, 1, {"127.0.0.1": 1}) == (use["accepted"], use["requests"], use["callers"])
        assert 0 <= use["seconds_since_last"] <= use["watched_seconds"]
        write(key, "short")
        assert (200, 200) == (asked(second), asked(first))
        write(key, second)
        older.unlink()
        assert (200, 401) == (asked(second), asked(first))
        assert not api.get("/internal/monitoring/older-key", headers={"X-API-Key": second}).json()["accepted"]
        assert first not in api.log.read_text()


def write(path: Path, key: str) -> None:
    """As a deploy writes: in one step, private."""
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(key + "\n")
    beside.rename(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "the key would cross the network unencrypted"),
        (["--host", "app.example"], "the key would cross the network unencrypted"),
        (["--tls-cert", "/nowhere"], "belong together"),
        (["--tls-cert", "/etc/hostname", "--tls-key", "/etc/hostname"], "cannot be used"),
        (["--port", "70000"], "--port must be"),
        (["--interval", "0"], "--interval must be"),
        (["--env-file", "/nowhere"], "does not exist"),
    ],
)
def test_wrong_words_stop_the_start(server: Server, words: list[str], said: str) -> None:
    """One sentence that names the option."""
    assert said in refusal(environment(server), *words)


def test_a_port_in_use(server: Server, api: Api) -> None:
    """The process ends with 2 and one sentence that names host and port."""
    port = api.url.rpartition(":")[2]
    ended = subprocess.run(command("serve", "--port", port), env=environment(server), capture_output=True, text=True, timeout=60)
    assert (2, "", 1) == (ended.returncode, ended.stdout, len(ended.stderr.splitlines())), ended.stderr
    assert f"redkeep: --host 127.0.0.1 --port {port} cannot be used: Address already in use; choose another\n" == ended.stderr


def test_tls(server: Server, start: Callable[..., Server], tmp_path: Path) -> None:
    """With a certificate it speaks TLS 1.3 alone, and asks browsers to stay with it."""
    folder = Path(str(server.settings["redis_tls_ca_file"])).parent
    words = ["--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key")]
    with serving(environment(server), tmp_path, *words) as api:
        answer = httpx.get(f"{api.url}/health/ready", verify=ssl.create_default_context(cafile=folder / "ca.crt"))
        assert (200, True) == (answer.status_code, "strict-transport-security" in answer.headers)
        host, _, port = api.url.removeprefix("https://").partition(":")
        old = subprocess.run(
            ["openssl", "s_client", "-connect", f"{host}:{port}", "-tls1_2"], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert old.returncode != 0
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{host}:{port}/health/ready")
