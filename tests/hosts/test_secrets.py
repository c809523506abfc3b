"""Where secrets are, and where they must not be. The search runs on the host: no secret leaves it."""

from __future__ import annotations

import shlex

import pytest

from .machine import API, API_USER, CACHE_ENV, MANAGED, OPERATOR, Machine

# Prints the host's secrets, one a line: passwords, encryption keys, and a line of each private key that has no
# constant part. Short lines are dropped: an empty pattern would match everything.
SECRETS = f"""secrets() {{ {{
cat {OPERATOR}/password; echo
cat /etc/redis/health/password /etc/valkey/health/password
sed -n -e 's/^REDIS_PASSWORD=//p' -e 's/^REDIS_HEALTH_PASSWORD=//p' {CACHE_ENV}
cat {API}/key {API}/monitor-password
sed -n 's/^REDIS_MONITOR_PASSWORD=//p' {API}/cache.env
sed -n 's/^REDIS_ENCRYPTION_KEYS=//p' {CACHE_ENV} | tr ',' '\\n'
sed -n 's/^REDIS_ENCRYPTION_KEYS=//p' {CACHE_ENV} | tr ',' '\\n' | sed 's/^[^:]*://'
for k in /etc/redkeep/*/client.key {API}/server.key /etc/*/tls/*/server.key; do [ -e "$k" ] && sed -n 3p "$k"; done
}} 2>/dev/null | grep -E '^.{{16,}}$' | sort -u; }}
"""
# Everything that is small enough to have been written by hand or by us; no other file systems.
SEARCHED = "/etc /run /tmp /var/tmp /dev/shm /var/log /var/lib/redkeep /var/backups /opt /srv /usr/local /home /root"


def counted(command: str) -> str:
    """Shell that counts the lines of a command's output that hold a secret. The patterns go by a descriptor: as an
    argument of grep they would be what is looked for."""
    return f"{command} 2>/dev/null | grep -acF -f /dev/fd/3 3<<END || true\n$(secrets)\nEND"


def _homes(machine: Machine) -> set[str]:
    """The files that hold a secret by design."""
    homes = set()
    if "redis" in machine.wanted.member.groups:
        homes |= {f"{OPERATOR}/password", f"{OPERATOR}/client.key", machine.config("tls-key-file")["tls-key-file"]}
        if machine.wanted["redis_runtime"] == "docker":  # the container's health check logs in
            homes.add(f"{machine.folder}/health/password")
    if "app" in machine.wanted.member.groups:
        homes |= {CACHE_ENV, "/etc/redkeep/tls/client.key"}
    if machine.api:
        own = ("monitor-password",) if machine.api == "unit" else ("cache.env", "server.key")
        homes |= {f"{API}/{name}" for name in ("key", "client.key", *own)}
    if machine.dashboard:
        homes.add("/etc/redkeep/dashboard/key")
    return homes


def test_files_with_a_secret_are_the_known_ones(any_host: Machine) -> None:
    """No file that others may read holds a secret; and of root's files below /etc and /run only those meant to."""
    look = shlex.quote(SECRETS + 'secrets | grep -lsF -D skip -f - -- "$@"')
    roots = "-path '/home/*' -o -path '/root/*'"
    script = f"""find {SEARCHED} -xdev -type f -size -4096k ! -path '/opt/redkeep/releases/*/lib/*' \\
\\( -perm -o=r -o ! \\( {roots} \\) \\) \\
-print0 2>/dev/null | xargs -0 -r sh -c {look} sh | xargs -r -d '\\n' stat -c '%a %n'"""
    found = {path: int(mode, 8) for mode, _, path in (line.partition(" ") for line in any_host.run(script).stdout.splitlines())}
    assert _homes(any_host) <= found.keys(), "the search finds the homes of secrets"
    assert {path for path, mode in found.items() if mode & 0o007} == set()
    assert {path for path in found if path.startswith(("/etc/", "/run/", "/tmp/", "/var/", "/opt/"))} == _homes(any_host)


def test_no_secret_is_an_argument(any_host: Machine) -> None:
    """No process has a secret in its command line."""
    script = f"{SECRETS} secrets | grep -lsF -f - /proc/[0-9]*/cmdline | wc -l; secrets | wc -l"
    found, secrets = any_host.lines(script)
    assert int(secrets) >= 2
    assert found == "0"


def test_no_secret_is_in_the_environment_of_others(any_host: Machine) -> None:
    """A process with a secret in its environment is root's, the API's, or of a user in the app's group."""
    group = any_host.wanted["app_group"]
    known = f"root {API_USER}" if any_host.api else "root"
    script = f"""{SECRETS} members=$(getent group {group} | cut -d: -f4 | tr ',' ' ')
secrets | grep -lsF -f - /proc/[0-9]*/environ | while read -r file; do
owner=$(stat -c %U "${{file%/environ}}" 2>/dev/null) || continue
case " {known} $members " in *" $owner "*) ;; *) echo "$owner $(cat "${{file%/environ}}/comm")" ;; esac; done"""
    assert any_host.lines(script) == []


@pytest.mark.only(systemd=True)
def test_no_secret_is_in_the_journal(any_host: Machine) -> None:
    """The last 100,000 entries of the journal hold no secret: neither a log line nor a command noted by sudo."""
    assert any_host.lines(SECRETS + counted("journalctl --no-pager -q -o cat -n 100000")) == ["0"]


def test_no_secret_is_in_a_log(any_host: Machine) -> None:
    """No file below /var/log, whoever may read it, holds a secret; rotated and compressed ones neither."""
    script = SECRETS + "secrets | grep -rlsaF -D skip -f - /var/log\n" + counted("find /var/log -name '*.gz' -exec zcat -f {} +")
    assert any_host.run(script).stdout.split() == ["0"]


def test_no_secret_is_in_the_servers_slow_log_or_acl_log(redis_host: Machine) -> None:
    """SLOWLOG and ACL LOG, which keep arguments and names, hold no secret."""
    script = SECRETS + counted(f"printf 'SLOWLOG GET 200\\nACL LOG 200\\nCLIENT LIST\\n' | {redis_host.cli()}")
    assert redis_host.run(script).stdout.split() == ["0"]


def test_shell_histories_hold_no_secret(any_host: Machine) -> None:
    """Neither a shell's history nor redis-cli's, of any user, holds a secret."""
    script = f"""{SECRETS} secrets | grep -lsF -f - /root/.*history /home/*/.*history"""
    assert any_host.run(script).stdout == ""


def test_marker_of_management_is_no_secret(any_host: Machine) -> None:
    """The file that marks the host as managed says so, and says nothing else."""
    assert any_host.read(MANAGED).strip() == "This host is managed by redkeep."
