"""Kernel settings that Redis depends on."""

from __future__ import annotations

import pytest

from .machine import Machine


def test_kernel_settings_survive_a_boot(redis_host: Machine) -> None:
    """The file for sysctl has every wanted setting, and nothing that sysctl reads later says otherwise."""
    wanted = {name: str(value) for name, value in redis_host.wanted["kernel_settings"].items()}
    found = {}
    files = "/usr/lib/sysctl.d/*.conf /run/sysctl.d/*.conf /etc/sysctl.d/*.conf"
    # As systemd-sysctl does: sorted by file name, then /etc/sysctl.conf's link 99-sysctl.conf among them.
    script = f"ls -1 {files} 2>/dev/null | awk -F/ '{{print $NF, $0}}' | sort | cut -d' ' -f2 | xargs cat"
    for line in redis_host.lines(script):
        name, separator, value = line.partition("=")
        if separator and not line.startswith(("#", ";")):
            found[name.strip().lstrip("-").replace("/", ".")] = value.strip()
    assert {name: found.get(name) for name in wanted} == wanted


def test_huge_pages_stay_off_after_a_boot(redis_host: Machine) -> None:
    """systemd-tmpfiles' file writes the wanted setting of transparent huge pages."""
    pages = redis_host.wanted["transparent_hugepages"]
    lines = [line.split() for line in redis_host.read("/etc/tmpfiles.d/redkeep.conf").splitlines() if not line.startswith("#")]
    assert lines == [["w-", "/sys/kernel/mm/transparent_hugepage/enabled", "-", "-", "-", "-", pages]]


@pytest.mark.only(container=False)
def test_kernel_settings_are_live(redis_host: Machine) -> None:
    """The running kernel has the wanted values."""
    wanted = {name: str(value) for name, value in redis_host.wanted["kernel_settings"].items()}
    assert {name: redis_host.out(f"sysctl -n {name}").strip() for name in wanted} == wanted


@pytest.mark.only(container=False)
def test_huge_pages_are_off(redis_host: Machine) -> None:
    """Transparent huge pages are as wanted in the running kernel."""
    pages = redis_host.wanted["transparent_hugepages"]
    assert f"[{pages}]" in redis_host.read("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.only(container=True)
def test_process_has_no_huge_pages(redis_host: Machine) -> None:
    """In a container, where the kernel is another's, the process has switched huge pages off unless the kernel leaves
    them to those who ask (Redis acts on "always" alone)."""
    assert redis_host.config("disable-thp") == {"disable-thp": "yes"}
    kernel = redis_host.out("cat /sys/kernel/mm/transparent_hugepage/enabled")
    process = redis_host.out(f"grep THP_enabled /proc/{redis_host.pid}/status").split()
    assert "[always]" not in kernel or process == ["THP_enabled:", "0"]
