"""The last stage and the way back from it: from the server's own configuration to ours, with one restart at most."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from deploys.difference import Difference, ManagedFile, file_differences, folder_differences
from deploys.facts.survey import Survey, UnitState
from deploys.migration.passage import Passage
from deploys.migration.ways import TLS_SETTINGS, sessions_end
from deploys.migration.window import BACKUP, BEFORE, STARTED, VERIFIED, beside, include_file, pairs
from deploys.server_settings import FIXED_AT_START
from deploys.site import Concern
from deploys.stages import application, machine, network, server, service, watch
from deploys.stages.machine import MANAGED, SYSCTL, TMPFILES
from deploys.stages.service import COMMAND_SCRIPT, quoted, restart_reasons, start_script
from deploys.stages.wanted import CLI, drop_in_text, sandbox_digest, settings

# Loading and writing what fits one host's memory.
RESTART_SECONDS = 600
# Texts of others that change the unit, while ours does.
KEPT_UNITS = f"{BEFORE}/units"

# Everything a deploy of a server that is a service of its own compares.
_SERVER: tuple[Concern, ...] = (
    *(machine.packages, machine.kernel_files, machine.kernel_values, machine.log_rotation),
    *(service.new_passwords, server.folders, server.operator_access, server.certificates, server.configuration),
    *(server.health, server.old_data),
    *(server.drop_in, network.firewall_files, network.firewall_live),
    *(service.service, service.running_users, service.running_settings, service.old_certificates),
)
_APP: tuple[Concern, ...] = (application.account, application.package, application.environment)


def port_closed(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """Nobody enters by the plaintext port, and nobody who did stays."""
    if survey.server.config.get("port", "0") != "0":
        script = f"{COMMAND_SCRIPT}\n{sessions_end(passage.window.port)}"
        yield Difference("the plaintext port is open", script, "CONFIG SET port 0\n")


def append_only(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """A server that starts with an append-only file reads nothing else: it is written before."""
    wanted = passage.site.bundle.knobs.redis_persistence == "aof"
    if wanted and survey.server.config.get("appendonly") == "no":
        state = f"{CLI} INFO persistence | tr -d '\\r'"
        script = f"""{COMMAND_SCRIPT}
i=0; while {state} | grep -Eq '^aof_rewrite_(in_progress|scheduled):1'; do
    i=$((i+1)); [ $i -lt {RESTART_SECONDS} ] || {{ echo 'the append-only file was not written in time' >&2; exit 1; }}; sleep 1
done
{state} | grep -q '^aof_last_bgrewrite_status:ok' || {{ echo 'the append-only file could not be written' >&2; exit 1; }}"""
        yield Difference("the append-only file is off", script, "CONFIG SET appendonly yes\n")


def final_files(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """redis.conf and users.acl as every deploy writes them; what the window included is of no more use."""
    for concern in (server.folders, server.certificates, server.configuration):
        yield from concern(passage.site, survey)
    ours = include_file(passage.site.bundle.engine)
    if survey.file(ours).kind:
        yield Difference(f"file {ours} is no longer needed", f"rm -f {ours}")


def sandbox(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The sandbox on disk, without a start: that comes once, for everything. Other texts that change the unit are kept."""
    site, engine = passage.site, passage.site.bundle.engine
    if not survey.has_systemd:
        return
    unit = survey.units.get(engine.unit, UnitState())
    if foreign := server.foreign_texts(engine, unit):
        aside = units_aside(foreign, KEPT_UNITS)
        yield Difference(f"unit {engine.unit} is changed by {' '.join(foreign)}", f"{aside}\nsystemctl daemon-reload")
    yield from folder_differences([(engine.drop_in.rpartition("/")[0], "root", "root", "0755")], survey)
    after = "systemctl daemon-reload"
    if _under_sandbox(passage, survey):
        after = f"touch -d @{unit.started - 1} {engine.drop_in}\n{after}"
    yield from file_differences([ManagedFile(engine.drop_in, drop_in_text(site, survey))], survey, after=after)


def _under_sandbox(passage: Passage, survey: Survey) -> bool:
    """Whether the running process was started under this sandbox already: on the second way forward it was."""
    start = _start_mark(passage, survey)
    return passage.site.run(f'[ "$(cat {STARTED} 2>/dev/null)" = "{start}" ]')[0]


def _start_mark(passage: Passage, survey: Survey) -> str:
    """Shell words for this start of the server under this sandbox."""
    unit = passage.site.bundle.engine.unit
    return f"$(systemctl show -p InvocationID --value {unit}) {sandbox_digest(passage.site, survey)}"


def restart(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The one restart. The server itself writes its data and ends; it goes on when it cannot write them."""
    site = passage.site
    if not (reasons := restart_reasons(site, survey)):
        return
    script = f"""p=$({CLI} INFO server | tr -d '\\r' | sed -n 's/^process_id://p'); answer=$({CLI} SHUTDOWN SAVE 2>&1 || true)
case "$answer" in *ERR*) echo "the server cannot write its data, and was not restarted: $answer" >&2; exit 1;; esac
i=0; while [ -n "$p" ] && kill -0 "$p" 2>/dev/null; do
    i=$((i+1)); [ $i -lt {RESTART_SECONDS}0 ] || {{ echo 'the server does not stop' >&2; exit 1; }}; sleep 0.1
done
{start_script(site, survey, "start")}"""
    yield Difference("; ".join(reasons) + " (the one restart)", script)


def managed(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """From here on the host is like every other, and the old backup goes: its values lie readable in it."""
    if not survey.file(MANAGED).kind:
        yield Difference("the host is not marked as managed", f"echo 'This host is managed by redkeep.' > {MANAGED}")
    if survey.has_systemd and not restart_reasons(passage.site, survey) and not _under_sandbox(passage, survey):
        yield Difference("the server's restart is not recorded", f'echo "{_start_mark(passage, survey)}" > {STARTED}')
    if survey.file(BACKUP).kind and passage.old_backup != "keep":
        yield Difference("the old backup, which contains readable values, is still there", f"rm -f {BACKUP} {VERIFIED}")


def files_before(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """Everything beside redis.conf as it was: the mark, the unit, log rotation, the init script, kernel settings, folders' modes."""
    engine = passage.site.bundle.engine
    if survey.file(MANAGED).kind:
        yield Difference("the host is still marked as managed", f"rm -f {MANAGED}")
    reload_units = "\nsystemctl daemon-reload" if survey.has_systemd else ""
    aside = survey.file(KEPT_UNITS).kind
    if survey.file(engine.drop_in).kind or aside:
        gone = f"rm -f {engine.drop_in}; rmdir {engine.drop_in.rpartition('/')[0]} 2>/dev/null || true"
        back = f"{units_back(KEPT_UNITS)}\n" if aside else ""
        what = (
            f"texts that changed {engine.unit} are put aside"
            if aside
            else f"file {engine.drop_in} is not needed before the close"
        )
        yield Difference(what, f"{back}{gone}{reload_units}")
    if kernel := [path for path in (SYSCTL, TMPFILES) if survey.file(path).kind]:
        back = f'while read -r f v; do echo "$v" > "$f" || true; done < {BEFORE}/kernel 2>/dev/null'
        yield Difference(f"kernel settings are still there: {' '.join(kernel)}", f"rm -f {' '.join(kernel)}\n{back}")
    for path, kept in beside(engine).items():
        if survey.file(path).kind and not passage.site.run(f"cmp -s {kept} {path}")[0]:
            put = f"if [ -e {kept} ]; then cp -a {kept} {path}; else rm -f {path}; fi"
            yield Difference(f"file {path} differs from before the migration", put)
    ours = [path for path in (engine.acl_file, f"{engine.folder}/openssl.cnf") if survey.file(path).kind]
    if ours:
        yield Difference(f"files are not needed before the close: {' '.join(ours)}", f"rm -f {' '.join(ours)}")
    watching = [p for p in (watch.SCRIPT, *(f"{watch.UNITS}/{n}" for n in (watch.SERVICE, watch.TIMER))) if survey.file(p).kind]
    if watching:
        stop = f"systemctl disable --now {watch.TIMER} >/dev/null 2>&1 || true\n" if survey.has_systemd else ""
        yield Difference("the daily check of the certificates is still there", f"{stop}rm -f {' '.join(watching)}{reload_units}")
    folders = [(path, owner, group, mode) for mode, owner, group, path in passage.window.folders]
    yield from folder_differences(folders, survey)


def units_aside(paths: Sequence[str], kept: str) -> str:
    """Shell that moves files below a folder, each with the folders above it."""
    words = shlex.join(paths)
    # From the root: Debian 12's cp looks for these folders by a path without its first slash.
    return f"install -d -m 0700 {kept}; (cd /; cp -a --parents {words} {kept})\nrm -f {words}"


def units_back(kept: str, root: str = "/") -> str:
    """Shell that puts the files kept below a folder back below the root. Files alone: the copy of a folder takes its mode along, and
    the root would be closed to everybody."""
    return f"""(cd {kept}; find . ! -type d | while IFS= read -r f; do
    mkdir -p "{root}/${{f%/*}}"; cp -a "$f" "{root}/$f"
done)
rm -rf {kept}"""


def live_before(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The running settings as they were, the plaintext port among them; those of TLS belong to another stage."""
    before = passage.window.before
    if not survey.server.reachable:
        return
    _ok, lines, _errors = passage.site.run(f"{CLI} CONFIG GET '*'")
    found, ours = pairs(lines), settings(passage.site, survey)
    # What our configuration says nothing of was lost with the restart. Some of it only a start can bring back.
    names = [n for n in before if n not in FIXED_AT_START and n not in TLS_SETTINGS]
    # The port last: by then the limits of before hold.
    for name in sorted(names, key=lambda name: name == "port"):
        if name in found and found[name] != before[name]:
            # The limit of open files is the process' own, and may not allow as many clients as before.
            script = COMMAND_SCRIPT if name in ours and name != "maxclients" else f"{COMMAND_SCRIPT} 2>&1 || true"
            yield Difference(
                f"running setting {name} is {found[name]!r}, before the migration {before[name]!r}",
                script,
                f"CONFIG SET {name} {quoted(before[name])}\n",
            )


def snapshot(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """A server that keeps its data on disk has them there again."""
    engine, before = passage.site.bundle.engine, passage.window.before
    dump = f"{engine.data_folder}/dump.rdb"
    if before.get("save") and before.get("appendonly") != "yes" and not survey.file(dump).kind and survey.server.reachable:
        told = f"{CLI} INFO persistence | tr -d '\\r'"
        script = f"""{CLI} BGSAVE >/dev/null
i=0; while {told} | grep -q '^rdb_bgsave_in_progress:1'; do
    i=$((i+1)); [ $i -lt {RESTART_SECONDS}0 ] || {{ echo 'the data was not written in time' >&2; exit 1; }}; sleep 0.1
done
[ -s {dump} ] || {{ echo "the data cannot be written to disk; the server's log ends with: $(tail -2 {engine.log_file})" >&2; exit 1; }}"""
        yield Difference("the data is not on disk", script)


def nothing_differs(passage: Passage, survey: Survey) -> tuple[str, Mapping[str, str | int]]:
    """What every deploy compares, without a difference."""
    found: list[str] = []
    concerns: tuple[Concern, ...] = (*_SERVER, watch.watch_files, watch.watch_timer)
    if passage.site.bundle.is_app:
        concerns += _APP
    for concern in concerns:
        found += [difference.what for difference in concern(passage.site, survey)]
    if found:
        return f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}.", {}
    uptime = survey.server.info.get("uptime_in_seconds", "")
    return "", {"differences": 0, "keys": _keys(passage), "uptime in seconds": uptime}


def _keys(passage: Passage) -> int:
    _ok, lines, _errors = passage.site.run(f"{CLI} DBSIZE")
    return int(lines[0]) if lines and lines[0].isdigit() else 0
