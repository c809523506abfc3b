"""`redkeep secrets` and `redkeep certs`: what people type, see, and never see."""

# ruff: noqa: SIM300 - the expected value stands on the left

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from redkeep import cli
from redkeep.cli import COMMANDS, main
from redkeep.crypto.pki import Authority, describe
from redkeep.crypto.store import SecretStore
from redkeep.errors import ServerUnavailableError
from redkeep.target import read_target

PASSPHRASE = "seven wooden ships at dawn"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("REDKEEP_", "REDIS_", "ENVIRONMENT"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def store() -> SecretStore:
    made = SecretStore.open(Path("secrets/local"), create=True)
    with made.transaction():
        made.rotate_password("cache_service")
        made.encryption_keys()
        made.leaf("redis-1", ["redis-1.internal", "10.0.0.5"], use="replication")
        made.leaf("cache", use="client")
    return made


def again() -> SecretStore:
    return SecretStore.open(Path("secrets/local"))


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_init_makes_them_once(capsys: pytest.CaptureFixture[str]) -> None:
    """`init` makes an authority and a key in secrets/local; a second one changes nothing and says so."""
    assert 0 == main(["secrets", "init"])
    content = Path("secrets/local/secrets.json").read_bytes()
    assert 0 == main(["secrets", "init"])
    assert content == Path("secrets/local/secrets.json").read_bytes()
    assert "nothing was changed" in capsys.readouterr().out
    assert ["encryption key", "CA"] == [row.kind for row in again().entries()]


def test_refusal_is_one_sentence_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Without secrets, `show` prints one sentence with the next step on stderr and exits with 2."""
    assert 2 == main(["secrets", "show"])
    out, err = capsys.readouterr()
    assert "" == out
    assert "redkeep: no secrets in secrets/local; run `redkeep secrets init --secrets secrets/local`\n" == err


def test_refusal_names_the_secrets_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever forgot --secrets is told which folders there are, and not to make new secrets."""
    assert 0 == main(["secrets", "init", "--secrets", "secrets/prod"])
    assert 2 == main(["secrets", "show"])
    assert capsys.readouterr().err == "redkeep: no secrets in secrets/local, but in secrets/prod: name the folder with --secrets\n"


def test_show_lists_without_values(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`secrets show` and `certs list` name everything and show no value."""
    assert 0 == main(["secrets", "show"])
    assert 0 == main(["certs", "list"])
    out = capsys.readouterr().out
    for shown in (
        "cache_service",
        "old password",
        "encryption key",
        "redis-1.internal, 10.0.0.5",
        "88 days left",
    ):
        assert shown in out
    for value in (store.password("cache_service"), *store.encryption_keys(), "PRIVATE"):
        assert value not in out


def test_reveal_prints_one_value(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`show --reveal` prints just that value; an unknown name is refused and nothing is made for it."""
    assert 0 == main(["secrets", "show", "--reveal", "cache_service"])
    assert store.password("cache_service") + "\n" == capsys.readouterr().out
    assert 0 == main(["secrets", "show", "--reveal", "encryption-key"])
    assert store.encryption_keys()[0] + "\n" == capsys.readouterr().out
    assert 2 == main(["secrets", "show", "--reveal", "cache_servic"])
    assert ("cache_service",) == again().users()


@pytest.mark.parametrize("kind", ["production", "development"])
def test_env_passes_the_settings(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each environment file is complete, literal, new each time, and accepted by the settings as it is."""
    assert 0 == main(["secrets", "env", f"--{kind}"])
    first = capsys.readouterr().out
    assert 0 == main(["secrets", "env", f"--{kind}", "--output", "cache.env"])
    assert 0o600 == stat.S_IMODE(Path("cache.env").stat().st_mode)
    assert not re.search(
        r"[$`\"' ]", "".join(line for line in first.splitlines() if not line.startswith("#"))
    )
    target = read_target(Path("cache.env"))
    assert (kind == "production", kind == "development") == (target.tls, target.development)
    assert target.password is not None
    assert 43 == len(target.password)
    assert 1 == len(target.keys)
    assert target.password not in first
    assert f"ENVIRONMENT={kind}\n" in first


def test_env_never_overwrites_by_accident(capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file stays unless --force is given; a symlink in its place is replaced, not followed."""
    Path("precious").write_text("old")
    Path("cache.env").symlink_to("precious")
    assert 2 == main(["secrets", "env", "--production", "--output", "cache.env"])
    assert "--force" in capsys.readouterr().err
    assert 0 == main(["secrets", "env", "--production", "--output", "cache.env", "--force"])
    assert "old" == Path("precious").read_text()
    assert not Path("cache.env").is_symlink()
    assert ["cache.env", "precious"] == sorted(path.name for path in Path().iterdir())


def test_seal_and_unseal(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sealing and opening take the passphrase from the environment or a private file."""
    password = store.password("cache_service")
    monkeypatch.setenv("REDKEEP_PASSPHRASE", PASSPHRASE)
    assert 0 == main(["secrets", "seal"])
    monkeypatch.delenv("REDKEEP_PASSPHRASE")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert 2 == main(["secrets", "show"])
    assert "REDKEEP_PASSPHRASE_FILE" in capsys.readouterr().err
    Path("passphrase").write_text(PASSPHRASE + "\n")
    Path("passphrase").chmod(0o644)
    monkeypatch.setenv("REDKEEP_PASSPHRASE_FILE", "passphrase")
    assert 2 == main(["secrets", "show"])
    assert "chmod 600 passphrase" in capsys.readouterr().err
    Path("passphrase").chmod(0o600)
    assert 0 == main(["secrets", "show", "--reveal", "cache_service"])
    assert password + "\n" == capsys.readouterr().out
    assert 0 == main(["secrets", "unseal"])
    assert password == again().password("cache_service")


def test_a_new_passphrase_is_asked_for_as_a_new_one(store: SecretStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes it gives the old one once and the new one twice, and can tell at each question which is meant."""
    asked: list[str] = []
    answers = [PASSPHRASE, PASSPHRASE, PASSPHRASE, "another " + PASSPHRASE, "another " + PASSPHRASE]

    def answered(prompt: str) -> str:
        asked.append(prompt)
        return answers[len(asked) - 1]

    monkeypatch.setattr("getpass.getpass", answered)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert 0 == main(["secrets", "seal"])
    assert 0 == main(["secrets", "seal"])
    new = ["New passphrase of the secrets: ", "Once more: "]
    assert [*new, "Passphrase of the secrets: ", *new] == asked
    assert SecretStore.open(store.path, passphrase=answers[-1]).sealed


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"REDKEEP_PASSPHRASE": ""}, "is empty"),
        ({"REDKEEP_PASSPHRASE": PASSPHRASE, "REDKEEP_PASSPHRASE_FILE": "x"}, "both set"),
        ({"REDKEEP_PASSPHRASE_FILE": "nowhere"}, "cannot be read"),
        ({"REDKEEP_PASSPHRASE": "short"}, "16 to 512"),
    ],
)
def test_unusable_passphrases(
    environment: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty, double, missing or short passphrase makes nothing and is named, not shown."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert 2 == main(["secrets", "init"])
    assert reason in capsys.readouterr().err
    assert not Path("secrets").exists()


def test_certs_renew_and_new_ca(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`renew` issues the named again, `new-ca` adds an authority, `renew --all` moves every leaf to it."""
    old = store.leaves()
    assert 0 == main(["certs", "renew", "cache"])
    assert old["cache"] != again().leaves()["cache"]
    assert old["redis-1"] == again().leaves()["redis-1"]
    assert 0 == main(["certs", "new-ca"])
    assert 0 == main(["certs", "renew", "--all"])
    newest = describe(again().authority().cert_pem).common_name
    assert {newest} == {leaf.info.issuer for leaf in again().leaves().values()}
    assert 2 == again().trust_bundle().count(b"BEGIN CERTIFICATE")
    before = again().leaves()
    assert 2 == main(["certs", "renew", "cache", "nobody"])
    assert before == again().leaves()
    assert 2 == main(["certs", "renew"])
    assert "--all" in capsys.readouterr().err


def test_certs_retire_ca(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`retire-ca` forgets the older authority, but not while a leaf of its own is in use."""
    assert 0 == main(["certs", "retire-ca"])
    assert "nothing was changed" in capsys.readouterr().out
    assert 0 == main(["certs", "new-ca"])
    assert 0 == main(["certs", "renew", "cache"])
    assert 2 == main(["certs", "retire-ca"])
    assert "signed redis-1:" in capsys.readouterr().err
    assert 2 == again().trust_bundle().count(b"BEGIN CERTIFICATE")
    assert 0 == main(["certs", "renew", "redis-1"])
    assert 0 == main(["certs", "retire-ca"])
    assert again().authority().cert_pem == again().trust_bundle()


def test_certs_inspect(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` tells what a stored certificate or a PEM file says; anything else is refused."""
    assert 0 == main(["certs", "inspect", "redis-1"])
    out = capsys.readouterr().out
    for shown in ("redis-1.internal, 10.0.0.5", "replication", store.leaves()["redis-1"].fingerprint):
        assert shown in out
    Path("ca.pem").write_bytes(store.trust_bundle())
    assert 0 == main(["certs", "inspect", "ca.pem"])
    assert re.search(r"use: +CA", capsys.readouterr().out)
    Path("noise").write_bytes(b"noise")
    assert 2 == main(["certs", "inspect", "noise"])
    assert 2 == main(["certs", "inspect", "nobody"])


def test_foreign_certificates_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in a certificate's names are shown escaped."""
    from redkeep.crypto import pki

    monkeypatch.setattr(pki, "_subject", lambda name: pki.x509.Name.from_rfc4514_string(f"CN={name}"))
    Path("evil.pem").write_bytes(Authority.create("evil\x1b[2Jname").cert_pem)
    assert 0 == main(["certs", "inspect", "evil.pem"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"evil\x1b[2Jname" in out


def test_certs_export(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """`export` writes certificate, key (0600) and authorities, and replaces nothing without --force."""
    assert 0 == main(["certs", "export", "redis-1", "out"])
    leaf = store.leaves()["redis-1"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path("out").iterdir()}
    assert {"redis-1.key": 0o600, "redis-1.crt": 0o644, "ca.crt": 0o644} == modes
    assert leaf.key_pem == Path("out/redis-1.key").read_bytes()
    assert leaf.cert_pem == Path("out/redis-1.crt").read_bytes()
    assert store.trust_bundle() == Path("out/ca.crt").read_bytes()
    Path("out/redis-1.key").write_text("old")
    assert 2 == main(["certs", "export", "redis-1", "out"])
    assert "old" == Path("out/redis-1.key").read_text()
    assert 0 == main(["certs", "export", "redis-1", "out", "--force"])
    assert leaf.key_pem == Path("out/redis-1.key").read_bytes()
    assert "PRIVATE" not in capsys.readouterr().out


def test_each_command_imports_only_its_own() -> None:
    """`redkeep --help` and `secrets path` load no cryptography, pydantic or rich."""
    for arguments in (["--help"], ["secrets", "path"]):
        script = (
            "import sys, json, contextlib\nfrom redkeep.cli import main\n"
            f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
            "print(json.dumps([m for m in ('cryptography', 'pydantic', 'rich') if m in sys.modules]))"
        )
        assert [] == json.loads(python("-c", script).stdout.splitlines()[-1])


def test_the_command_list_is_true() -> None:
    """Every command in the list has a module with `register`, and `--help` shows its line."""
    shown = python("-m", "redkeep.cli", "--help").stdout
    for name, (module, summary) in COMMANDS.items():
        assert callable(__import__(module, fromlist=["register"]).register)
        assert name in shown
        assert summary in " ".join(shown.split())


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (ServerUnavailableError("redis is down"), 2)]
)
def test_exit_codes(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is 130, any refusal of ours 2."""

    def fail(_: object) -> int:
        raise raised

    monkeypatch.setattr("redkeep.cli.secrets._path", fail)
    assert code == main(["secrets", "path"])


def test_closed_pipe_is_quiet(store: SecretStore) -> None:
    """`redkeep secrets show | head -0` ends with 141 and without a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "redkeep.cli", "secrets", "show"]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (cli.EXIT_BROKEN_PIPE, "") == (ran.returncode, ran.stderr)


@pytest.mark.parametrize(
    "verb", [("secrets", "init"), ("secrets", "seal"), ("secrets", "show"), ("certs", "export")]
)
def test_no_option_takes_a_passphrase(verb: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """No verb has an option for a passphrase or a password: argv is public."""
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: redkeep {' '.join(verb)} ")
    assert not re.search(r"--pass\w+", shown)


def test_a_new_api_key(store: SecretStore, capsys: pytest.CaptureFixture[str]) -> None:
    """It replaces the old at once and is not shown; where no API was ever deployed there is nothing to renew."""
    assert main(["secrets", "renew-api-key"]) == 2
    assert "a deploy with the knob api_enabled creates it" in capsys.readouterr().err
    old = store.password("api")
    assert main(["secrets", "renew-api-key"]) == 0
    fresh = again().password("api")
    assert fresh != old
    assert fresh not in capsys.readouterr().out
    assert len(again().password_hashes("api")) == 1
