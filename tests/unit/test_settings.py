"""Settings: where they come from, what is refused, and that no secret shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redkeep
from redkeep import SecurityOptimizationConfig, Settings
from redkeep.cache.access_points import Access
from redkeep.crypto.keyring import generate_key
from redkeep.crypto.passwords import generate_password
from redkeep.environment import FLAGS, SECRETS, SOURCE, VARIABLES, collect, read_env_file
from redkeep.errors import ConfigurationError
from redkeep.target import parse_url, read_target

PASSWORD, OTHER, KEY, OLD_KEY = generate_password(), generate_password(), generate_key(), generate_key()
SECRET_VALUES = (PASSWORD, OTHER, KEY, OLD_KEY)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("REDIS_") or name == "ENVIRONMENT":
            monkeypatch.delenv(name)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "cache.env"
    path.write_text(
        "# managed\n\nENVIRONMENT=production\nREDIS_URL=rediss://redis.example:6380/0\nREDIS_USERNAME=cache_service\n"
        f"REDIS_PASSWORD={PASSWORD}\nREDIS_TLS_ENABLED=true\nREDIS_TLS_MIN_VERSION=1.2\nREDIS_TLS_CA_FILE=/etc/redkeep/tls/ca.crt\n"
        f"REDIS_ENCRYPTION_KEYS={KEY},{OLD_KEY}\nREDIS_NAMESPACE=\nREDIS_COMPRESSION=lz4\nREDIS_PROTECTED_MODE=true\n"
        "REDIS_DEV_MODE=false\nAPP_MOTTO='quoted words'\n"
    )
    return path


def refusal(**values: object) -> str:
    """The sentence of a refusal; it holds no secret, and neither does its cause."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(**values)
    shown = repr(caught.value) + str(caught.value.__context__)  # the context is what a careless logger prints
    assert not any(secret in shown for secret in SECRET_VALUES)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_the_prd() -> None:
    """Every setting of the PRD is there under its name, with its default."""
    made = Settings()
    assert (
        made.redis_url, made.redis_tls_enabled, made.redis_protected_mode, made.redis_dev_mode
    ) == ("redis://redis:6379", False, True, False)
    secrets = (made.redis_password, made.redis_cache_password, made.redis_health_password, made.redis_encryption_key)
    assert secrets == (None,) * 4
    assert not made.redis_security_enabled
    assert made.get_secure_redis_url() == "redis://redis:6379"


def test_reader_and_model_name_the_same_settings() -> None:
    """Each field has its variable, each secret its kind, in both modules."""
    fields = Settings.model_fields
    assert set(fields) == set(VARIABLES.values())
    assert {name for name, field in fields.items() if field.annotation is bool} == FLAGS
    assert {name for name, field in fields.items() if "SecretStr" in str(field.annotation)} == SECRETS


def test_env_file_is_the_whole_truth(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file named, ambient variables are not mixed in."""
    monkeypatch.setenv("REDIS_DEV_MODE", "true")
    monkeypatch.setenv("REDIS_HEALTH_PASSWORD", OTHER)
    made = Settings.load(env_file)
    assert made.redis_health_password is None
    assert made.target.keys == (KEY, OLD_KEY)
    assert (
        made.target.host, made.target.port, made.target.username, made.target.password
    ) == ("redis.example", 6380, "cache_service", PASSWORD)
    assert ("lz4", "1.2", Path("/etc/redkeep/tls/ca.crt")) == (
        made.redis_compression, made.redis_tls_min_version, made.redis_tls_ca_file
    )


def test_a_rotated_password_is_found_in_the_file_the_environment_was_made_from(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With REDIS_SETTINGS_FILE a running process reads its environment's file again: its passwords, the statistics' too. Half written
    or gone, what was read last stays; and a user that the environment alone names keeps his password."""
    text = f"{env_file.read_text()}REDIS_HEALTH_PASSWORD={OTHER}\n{SOURCE}={env_file}\n"
    env_file.write_text(text)
    for name, value in read_env_file(env_file).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    access = Access.of(
        settings, encrypted=True, namespace="", tuned=SecurityOptimizationConfig(), redis_tls_enabled=True, redis_url=""
    )
    assert access is not None
    new, newer = generate_password(), generate_password()
    env_file.write_text(text.replace(PASSWORD, new).replace(OTHER, newer))
    assert access._credentials() == ("cache_service", new)
    assert access._now().health_password == newer
    env_file.write_text("REDIS_PASS")
    assert access._credentials() == ("cache_service", new)
    env_file.unlink()
    assert access._credentials() == ("cache_service", new)
    env_file.write_text(text.replace("=cache_service", "=someone_else").replace(PASSWORD, new))
    assert access._credentials() == ("cache_service", PASSWORD)


def test_status_and_settings_read_the_same(env_file: Path) -> None:
    """`redkeep status` builds the very target that the application uses."""
    assert Settings.load(env_file).target == read_target(env_file)._replace(env_file=None)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables are read; keyword arguments come before them."""
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("REDIS_URL", "rediss://one:1")
    assert Settings().target.host == "one"
    made = Settings(redis_url="rediss://two").target
    assert (made.host, made.password) == ("two", PASSWORD)


def test_word_of_the_app_for_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENVIRONMENT is the app's variable: what is not development is held to production."""
    found = {}
    for word in ("staging", "development", "Production", "developement"):
        monkeypatch.setenv("ENVIRONMENT", word)
        found[word] = Settings().environment
    assert found == {
        "staging": "production", "development": "development", "Production": "production", "developement": "production"
    }


@pytest.mark.parametrize(
    ("url", "changes", "secure"),
    [
        ("redis://h:1/2", {}, "redis://h:1/2"),
        ("redis://h", {"redis_tls_enabled": True}, "rediss://h"),
        ("rediss://h/5", {}, "rediss://h/5"),
        ("rediss://h:1", {"redis_password": PASSWORD}, f"rediss://:{PASSWORD}@h:1"),
        ("redis://h:1", {"redis_password": PASSWORD, "redis_tls_enabled": True}, f"rediss://:{PASSWORD}@h:1"),
        ("rediss://h:1/0", {"redis_cache_password": PASSWORD}, f"rediss://cache_service:{PASSWORD}@h:1/0"),
        ("rediss://h", {"redis_cache_password": PASSWORD, "redis_password": OTHER}, f"rediss://cache_service:{PASSWORD}@h"),
        ("rediss://h", {"redis_username": "a:b@c/d", "redis_password": "p/w+d=@:#?%" + PASSWORD},  # pragma: allowlist secret - made up
         f"rediss://a%3Ab%40c%2Fd:p%2Fw%2Bd%3D%40%3A%23%3F%25{PASSWORD}@h"),  # pragma: allowlist secret - made up
        ("rediss://[2001:db8::1]:7/1", {"redis_password": PASSWORD}, f"rediss://:{PASSWORD}@[2001:db8::1]:7/1"),
        ("rediss://h/1?socket_timeout=2", {"redis_password": PASSWORD}, f"rediss://:{PASSWORD}@h/1?socket_timeout=2"),
        (f"rediss://u%40x:{PASSWORD}@h/1", {}, f"rediss://u%40x:{PASSWORD}@h/1"),
        (f"rediss://:{PASSWORD}@h", {}, f"rediss://:{PASSWORD}@h"),
    ],
)
def test_secure_url(url: str, changes: dict[str, object], secure: str) -> None:
    """User, database, query, IPv6, a missing port and TLS survive."""
    made = Settings(redis_url=url, **changes)
    assert secure == made.get_secure_redis_url()
    assert PASSWORD not in made.redis_url


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'`$"), min_size=16, max_size=40))
def test_secure_url_comes_apart_again(password: str) -> None:
    """Whatever the password, the URL says the same host, port, database and password."""
    try:
        made = Settings(redis_url="rediss://[::1]:6380/3", redis_password=password)
    except ConfigurationError:
        return
    again = parse_url(made.get_secure_redis_url())
    assert ("::1", 6380, 3, password) == (again.host, again.port, again.database, again.password)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"redis_password": "short"}, "REDIS_PASSWORD"),  # pragma: allowlist secret - made up
        ({"redis_cache_password": "short"}, "REDIS_CACHE_PASSWORD"),  # pragma: allowlist secret - made up
        ({"redis_health_password": "aaaaaaaaaaaaaaaaaaaa"}, "REDIS_HEALTH_PASSWORD"),  # pragma: allowlist secret - made up
        ({"redis_password": f"{PASSWORD}\nuser eve on"}, "REDIS_PASSWORD"),
        ({"redis_password": "dev_password_change_in_production"}, "REDIS_PASSWORD"),  # pragma: allowlist secret - made up
        ({"redis_encryption_key": "not a key"}, "REDIS_ENCRYPTION_KEY"),
        ({"redis_encryption_key": KEY[:-5]}, "REDIS_ENCRYPTION_KEY"),
        ({"redis_encryption_keys": f"{KEY},short"}, "key 2"),
        ({"redis_encryption_keys": f"{KEY},{KEY}"}, "twice"),
        ({"redis_encryption_keys": " , "}, "REDIS_ENCRYPTION_KEYS"),
        ({"redis_encryption_keys": KEY, "redis_encryption_key": OLD_KEY}, "both"),
        ({"redis_encryption_key": KEY, "redis_password": KEY}, "also the encryption key"),
        ({"redis_encryption_key": KEY, "redis_health_password": KEY.rstrip("=")}, "also the encryption key"),
        ({"redis_dev_mode": True}, "REDIS_DEV_MODE"),
        ({"redis_protected_mode": False}, "REDIS_PROTECTED_MODE"),
        ({"redis_url": "rediss://h", "redis_tls_enabled": False}, "REDIS_TLS_ENABLED"),
        ({"redis_url": f"rediss://:{PASSWORD}@h", "redis_password": OTHER}, "REDIS_URL"),
        ({"redis_url": f"rediss://:{PASSWORD}@h", "redis_cache_password": OTHER}, "REDIS_URL"),
        ({"redis_url": f"rediss://a:{PASSWORD}@h", "redis_username": "b"}, "REDIS_USERNAME"),
        ({"redis_url": f"rediss://:short{PASSWORD[:5]}@h"}, "REDIS_PASSWORD"),
        ({"redis_url": f"rediss://:a/{PASSWORD}@h:1"}, "REDIS_URL"),
        ({"redis_url": f"rediss://:a#{PASSWORD}@h:1"}, "REDIS_URL"),
        ({"redis_url": f"rediss://:a?{PASSWORD}@h:1"}, "REDIS_URL"),
        ({"redis_url": "http://h"}, "REDIS_URL"),
        ({"redis_url": "unix:///run/redis.sock"}, "REDIS_URL"),
        ({"redis_url": "rediss://"}, "REDIS_URL"),
        ({"redis_url": "rediss://h:99999"}, "REDIS_URL"),
        ({"redis_url": "rediss://h:0"}, "REDIS_URL"),
        ({"redis_url": "rediss://h/x"}, "REDIS_URL"),
        ({"redis_url": "rediss://h\n:1"}, "REDIS_URL"),
        ({"redis_url": "rediss://h?ssl_cert_reqs=none"}, "REDIS_URL"),
        ({"redis_url": f"rediss://h?password={PASSWORD}"}, "REDIS_URL"),
        ({"redis_username": "x"}, "REDIS_USERNAME"),
        ({"redis_url": "redis://h", "redis_password": PASSWORD}, "REDIS_TLS_ENABLED"),
        ({"redis_tls_cert_file": "/x"}, "REDIS_TLS_KEY_FILE"),
        ({"redis_tls_min_version": "1.1"}, "REDIS_TLS_MIN_VERSION"),
        ({"redis_compression": "gzip"}, "REDIS_COMPRESSION"),
        ({"redis_compression": PASSWORD}, "REDIS_COMPRESSION"),
        ({"environment": "staging"}, "ENVIRONMENT"),
        ({"redis_namespace": "a\x00"}, "REDIS_NAMESPACE"),
        ({"redis_tls_enable": True}, "REDIS_TLS_ENABLE"),
        ({"redis_password": 5}, "REDIS_PASSWORD"),
        ({"redis_url": 5}, "REDIS_URL"),
        ({"redis_tls_enabled": "perhaps"}, "REDIS_TLS_ENABLED"),
    ],
)
def test_refused(values: dict[str, object], named: str) -> None:
    """What is wrong or unsafe is one sentence that names the setting and not the value."""
    assert named in refusal(**values)


def test_development_may_be_plain() -> None:
    """Development allows what production refuses, and still no weak password."""
    made = Settings(environment="development", redis_dev_mode=True, redis_url="redis://h", redis_password=PASSWORD)
    assert not made.redis_tls_enabled
    assert "REDIS_PASSWORD" in refusal(environment="development", redis_password="short")  # pragma: allowlist secret - made up


def test_loopback_may_be_plain() -> None:
    """A password to this very host does not cross a network."""
    assert Settings(redis_url="redis://127.0.0.1:6379", redis_password=PASSWORD).target.password == PASSWORD


def test_no_secret_shows(env_file: Path) -> None:
    """Neither repr, str, a dump as JSON, nor the target shows a secret."""
    made = Settings(redis_url=f"rediss://:{PASSWORD}@h", redis_encryption_key=KEY, redis_health_password=OTHER)
    shown = repr(made) + str(made) + made.model_dump_json() + repr(made.target) + repr(made.target.address) + f"{made.target}"
    assert not any(secret in shown for secret in SECRET_VALUES)


def test_settings_are_frozen() -> None:
    """What was checked cannot be changed behind the check."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().redis_dev_mode = True  # type: ignore[misc]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_secret_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """`<VARIABLE>_FILE` names the file; the newline at its end does not count."""
    secret = tmp_path / "password"
    secret.write_bytes(f"{PASSWORD}{ending}".encode())
    secret.chmod(0o600)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(secret))
    assert Settings(redis_url="rediss://h").target.password == PASSWORD


def test_both_ways_for_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable and its file together are an error."""
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "x"))
    assert "REDIS_PASSWORD_FILE" in refusal()


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_secret_file_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A secret that every user can read or replace is refused, with the command that mends it."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(mode)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(secret))
    assert "chmod o=" in refusal()


def test_secret_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a folder, a fifo, a huge file and bytes that are no text are refused at once."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "huge").write_bytes(b"x" * 100_000)
    (tmp_path / "bytes").write_bytes(b"\xff" * 20)
    (tmp_path / "empty").write_bytes(b"\n")
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    for name in ("absent", ".", "fifo", "huge", "bytes", "empty"):
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / name))
        assert "REDIS_PASSWORD" in refusal()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('REDIS_PASSWORD="$(openssl rand -base64 32)"', "substitution"),
        ("REDIS_PASSWORD=${OTHER_PASSWORD_OF_MINE}", "substitution"),
        ("REDIS_PASSWORD=`pass show redis-password`", "substitution"),  # pragma: allowlist secret - made up
        ("export REDIS_PASSWORD=x", "NAME=value"),
        ("REDIS_PASSWORD = x", "NAME=value"),
        ("REDIS_PASSWORD", "NAME=value"),
        ("REDIS_URL=redis://a # the cache", "space"),
        ('REDIS_ENCRYPTION_KEY=""  # optional', "quote"),
        ('REDIS_URL="a"b"', "quote"),
        ('REDIS_URL="a', "quote"),
        ('REDIS_URL="a\\n"', "quote"),
        ("REDIS_URL=a\nREDIS_URL=b", "twice"),
        ("REDIS_TLS_ENABLE=true", "REDIS_TLS_ENABLE"),
        ("REDIS_PASSWORD=", "empty"),
        ('REDIS_ENCRYPTION_KEY=""', "empty"),
        ("REDIS_TLS_ENABLED=perhaps", "true or false"),
    ],
)
def test_env_file_lines_refused(tmp_path: Path, line: str, part: str) -> None:
    """Lines that systemd, Docker and a shell would read differently, and typing errors, name the file and the line."""
    path = tmp_path / "cache.env"
    path.write_text(f"{line}\n")
    with pytest.raises(ConfigurationError, match=part):
        Settings.load(path)


def test_empty_means_unset_in_development(tmp_path: Path) -> None:
    """The PRD's development file leaves the encryption key empty."""
    path = tmp_path / ".env"
    path.write_text('ENVIRONMENT=development\nREDIS_ENCRYPTION_KEY=""\nREDIS_DEV_MODE=true\n')
    assert Settings.load(path).redis_encryption_key is None


def test_quotes_come_off(tmp_path: Path) -> None:
    """One pair of quotes around a value is not part of it, and others' variables are let through."""
    path = tmp_path / ".env"
    path.write_text("REDIS_NAMESPACE='a b'\nAPP=\"x=y\"\n")
    assert read_env_file(path) == {"REDIS_NAMESPACE": "a b", "APP": "x=y"}
    assert collect(read_env_file(path)) == {"redis_namespace": "a b"}


def test_public_names() -> None:
    """The public surface is sorted, complete and importable."""
    assert sorted(redkeep.__all__) == redkeep.__all__
    assert all(getattr(redkeep, name).__name__ == name for name in redkeep.__all__)
    with pytest.raises(AttributeError):
        _ = redkeep.nothing


def test_import_is_light() -> None:
    """`import redkeep` loads neither pydantic nor redis nor cryptography; Settings does when it is asked for."""
    code = (
        "import sys, redkeep; heavy = {'pydantic', 'redis', 'cryptography', 'ssl', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules))); redkeep.Settings; print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
