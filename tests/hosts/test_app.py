"""The application's side of a host."""

from __future__ import annotations

import re
import shlex

from .machine import APP_TLS, CACHE_ENV, OPERATOR, Machine

HOME = "/opt/redkeep"

NAMES = {
    "ENVIRONMENT", "REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_TLS_ENABLED", "REDIS_TLS_MIN_VERSION",
    "REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE", "REDIS_ENCRYPTION_KEYS", "REDIS_NAMESPACE",
    "REDIS_HEALTH_PASSWORD", "REDIS_COMPRESSION", "REDIS_PROTECTED_MODE", "REDIS_DEV_MODE",
    "REDIS_SETTINGS_FILE",
}  # fmt: skip
SECRET = {"REDIS_PASSWORD", "REDIS_HEALTH_PASSWORD", "REDIS_ENCRYPTION_KEYS"}


def _environment(machine: Machine) -> dict[str, str]:
    """cache.env without the values of its secrets."""
    hide = " ".join(f"-e 's/^{name}=.*/{name}=hidden/'" for name in sorted(SECRET))
    lines = machine.lines(f"sed {hide} {CACHE_ENV}")
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_environment_has_this_apps_names_only(app_host: Machine) -> None:
    """cache.env has what the cache needs: its own credentials, those of the user that may only ask INFO, and no others."""
    assert set(_environment(app_host)) == NAMES | ({"REDIS_CLIENT_TRACKING"} if app_host.wanted["cache_tracking"] else set())


def test_environment_is_of_the_cache_user_over_tls(app_host: Machine) -> None:
    """The app logs in as cache_service, over TLS, to the wanted address, in protected mode."""
    wanted = app_host.wanted
    if wanted["redis_runtime"] == "docker":
        assert _environment(app_host)["REDIS_URL"] == f"rediss://{app_host.door}/0"
        return
    address = f"[{wanted.app_service}]" if ":" in wanted.app_service else wanted.app_service
    expected = {
        "ENVIRONMENT": "production",
        "REDIS_URL": f"rediss://{address}:{wanted.port}/0",
        "REDIS_USERNAME": "cache_service",
        "REDIS_TLS_ENABLED": "true",
        "REDIS_TLS_MIN_VERSION": wanted["tls_minimum_version"],
        "REDIS_TLS_CA_FILE": f"{APP_TLS}/ca.crt",
        "REDIS_TLS_CERT_FILE": f"{APP_TLS}/client.crt",
        "REDIS_TLS_KEY_FILE": f"{APP_TLS}/client.key",
        "REDIS_NAMESPACE": wanted["cache_namespace"],
        "REDIS_COMPRESSION": wanted["cache_compression"],
        "REDIS_PROTECTED_MODE": "true",
        "REDIS_DEV_MODE": "false",
    }
    found = _environment(app_host)
    assert {name: found.get(name) for name in expected} == expected


def test_encryption_keys_are_256_bits(app_host: Machine) -> None:
    """Each encryption key is 32 bytes, no two are the same, and none is the password. They are measured on the host."""
    script = f"""sed -n 's/^REDIS_ENCRYPTION_KEYS=//p' {CACHE_ENV} | tr ',' '\\n' | sed 's/^[^:]*://' | while read -r key; do
case "$key" in *[!A-Za-z0-9_=+/-]*) echo "odd"; continue;; esac
printf %s "$key" | tr -- '-_' '+/' | sed 's/=*$//' | awk '{{ while (length($0) % 4) $0 = $0 "="; print }}' |
openssl base64 -d -A | wc -c
done; sed -n 's/^REDIS_ENCRYPTION_KEYS=//p' {CACHE_ENV} | tr ',' '\\n' | sed 's/^[^:]*://' | sort | uniq -d | wc -l
p=$(sed -n 's/^REDIS_PASSWORD=//p' {CACHE_ENV}); printf '%s\\n' "$p" | grep -cF -f - {CACHE_ENV}; echo ${{#p}}"""
    *sizes, repeated, lines_with_password, password = (int(line) for line in app_host.lines(script))
    assert sizes
    assert set(sizes) == {32}
    assert repeated == 0
    assert lines_with_password == 1
    assert password >= 32


def test_operators_password_is_not_the_apps(app_host: Machine) -> None:
    """The operator's secrets, when they are on this host at all, are not in the app's files."""
    script = f"""[ -e {OPERATOR} ] || exit 0
grep -lF -f {OPERATOR}/password {CACHE_ENV}
cmp -s {OPERATOR}/client.key {APP_TLS}/client.key && echo same"""
    assert app_host.run(script).stdout == ""


def test_app_gets_through_with_its_own_credentials(app_host: Machine) -> None:
    """openssl, with the app's certificate, CA and password alone, verifies the server by name and is let in as cache_service."""
    wanted = app_host.wanted
    numeric = re.fullmatch(r"[0-9.]+|.*:.*", wanted.app_service)
    verify = f"-verify_return_error -verify_{'ip' if numeric else 'hostname'} {shlex.quote(wanted.app_service)}"
    url = app_host.out(f"sed -n 's|^REDIS_URL=rediss://\\(.*\\)/0$|\\1|p' {CACHE_ENV}").strip()
    said = app_host.run(
        f"""p=$(sed -n 's/^REDIS_PASSWORD=//p' {CACHE_ENV})
printf 'AUTH cache_service %s\\r\\nPING\\r\\nDBSIZE\\r\\nGET other\\r\\nQUIT\\r\\n' "$p" |
timeout 5 openssl s_client -quiet -connect {url} {verify} -CAfile {APP_TLS}/ca.crt -no-CApath -no-CAstore \\
-cert {APP_TLS}/client.crt -key {APP_TLS}/client.key 2>/dev/null"""
    ).stdout
    assert [line.split(" ")[0] for line in said.split("\r\n") if line] == ["+OK", "+PONG", "-NOPERM", "-NOPERM", "+OK"]


def test_app_user_reads_what_it_needs_and_others_do_not(app_host: Machine) -> None:
    """A process of the app's group reads cache.env and the key; `nobody` reads neither."""
    group = app_host.wanted["app_group"]
    files = f"{CACHE_ENV} {APP_TLS}/client.key {APP_TLS}/ca.crt"
    script = f"""as() {{ g=$1; shift; setpriv --reuid=nobody --regid="$g" --clear-groups "$@"; }}
for f in {files}; do as {group} test -r $f && echo yes || echo no; done
for f in {files}; do as nogroup test -r $f && echo yes || echo no; done"""
    assert app_host.lines(script) == ["yes"] * 3 + ["no"] * 3


def test_users_of_the_app_are_in_its_group(app_host: Machine) -> None:
    """The members of the app's group are the users it was given, and no other."""
    members = app_host.out(f"getent group {app_host.wanted['app_group']}").strip().split(":")[3]
    assert set(filter(None, members.split(","))) == set(app_host.wanted["app_users"])


def test_package_is_written_by_root_alone(app_host: Machine) -> None:
    """Nothing of the installed package, from /opt down, can be changed by anyone but root."""
    assert app_host.lines(f"find {HOME}/ /opt -maxdepth 0 -perm /022; find {HOME}/ ! -type l -perm /022") == []
    assert app_host.lines(f"find {HOME}/ ! -user root") == []


def test_one_release_is_in_use(app_host: Machine) -> None:
    """`current` points to a complete release; no half-made one lies beside it, and of older ones at most the one before."""
    current = app_host.out(f"readlink {HOME}/current").strip()
    found = app_host.lines(f"find {HOME} -mindepth 1 -maxdepth 2 -type d ! -path {HOME}/releases")
    assert current in found
    assert len(found) <= 2
    assert None not in app_host.stat(*(f"{release}/.complete" for release in found)).values()
    assert app_host.out("readlink -f /usr/local/bin/redkeep").strip() == f"{current}/bin/redkeep"


def test_installed_packages_fit_together(app_host: Machine) -> None:
    """pip finds every dependency there and of a fitting version."""
    assert app_host.run(f"{HOME}/current/bin/pip --disable-pip-version-check check").rc == 0


def test_status_is_content(app_host: Machine) -> None:
    """`redkeep status` writes and reads an encrypted value and finds every control in place (exit code 0)."""
    result = app_host.run("/usr/local/bin/redkeep status")
    assert result.rc == 0, result.stdout + result.stderr


def test_status_says_no_secret(app_host: Machine) -> None:
    """What `redkeep status` prints holds neither the password nor an encryption key."""
    script = f"""/usr/local/bin/redkeep status --json 2>&1 | grep -cF -f /dev/fd/3 3<<END
$(sed -n 's/^REDIS_PASSWORD=//p; s/^REDIS_ENCRYPTION_KEYS=//p' {CACHE_ENV} | tr ',' '\\n')
END"""
    assert app_host.run(script).stdout.strip() == "0"
