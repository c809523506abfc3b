"""The first stage: what is found is documented, its data are backed up, and the backup is proved by a throwaway server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from deploys.difference import Difference, ManagedFile, file_differences
from deploys.engine import Engine
from deploys.facts.survey import Survey
from deploys.migration.legacy import access
from deploys.migration.passage import Passage
from deploys.migration.window import BACKUP, BEFORE, FOLDER, PLAN, VERIFIED, beside, original_file
from deploys.server_settings import NEVER_ASKED
from deploys.site import Site
from deploys.stages import machine, removal
from deploys.stages.machine import STATE, THP, proc_path
from redkeep.migration.stages import STAGES

# Keys looked at one by one, of each database.
SAMPLES = 200
# A snapshot and a restore of what fits one host's memory take minutes at most.
BACKUP_SECONDS = 900
# What a backup that was killed leaves.
_SCRATCH = f"{FOLDER}/compare.* {STATE}/.redkeep-restore.*"


def packages(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """What the later stages need is installed while nothing depends on it; away again on the way back."""
    if not passage.site.bundle.is_redis:
        yield from (machine.packages(passage.site, survey) if passage.level >= 0 else _gone(passage.site, survey))
        return
    if passage.level >= 0:
        yield from machine.packages_missing(passage.site, survey)
        return
    yield from removal.files_gone(passage.site, survey)
    if survey.file(machine.PACKAGES).kind:
        script = f"{removal.PACKAGES_SCRIPT}\nrm -f {machine.PACKAGES} {machine.BEFORE} {removal.LEFT_OVER} {STATE}/group-*"
        yield Difference("packages installed by Redkeep are still there", script)


def _gone(site: Site, survey: Survey) -> Iterator[Difference]:
    yield from removal.files_gone(site, survey)
    yield from removal.packages_gone(site, survey)


def document(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The server as it is: its files, its running settings (no password among them), its users, the modes of its folders."""
    if passage.level >= 0 and not survey.file(f"{BEFORE}/complete").kind:
        yield Difference("the current configuration is not documented", _document(passage))
    elif passage.level < 0 and survey.file(BEFORE).kind:
        yield Difference("the documented configuration is no longer needed", f"rm -rf {BEFORE} {PLAN} {VERIFIED} {_SCRATCH}")


def _document(passage: Passage) -> str:
    engine, knobs = passage.site.bundle.engine, passage.site.bundle.knobs
    kernel = shlex.join([*(proc_path(name) for name in knobs.kernel_settings), THP])
    secret = "|".join(sorted(NEVER_ASKED))
    keep = "\n".join(f"[ ! -e {path} ] || cp -a {path} {kept}" for path, kept in beside(engine).items())
    return f"""umask 077; rm -rf {BEFORE}; install -d -m 0700 {BEFORE}
{access(engine)}
cp -a {engine.config} {original_file(engine)}
{keep}
r CONFIG GET '*' | awk 'NR % 2 {{ name = $0; next }} name !~ /^({secret})$/ {{ print name; print }}' > {BEFORE}/config
r ACL LIST > {BEFORE}/acl
grep -q '^user default ' {BEFORE}/acl
stat -c '%a %U %G %n' {engine.folder} {engine.data_folder} {engine.log_file.rpartition("/")[0]} > {BEFORE}/folders
printf '%s %s\\n' "$address" "$port" > {BEFORE}/door
for f in {kernel}; do [ ! -r "$f" ] || printf '%s %s\\n' "$f" "$(sed 's/.*\\[\\(.*\\)\\].*/\\1/' "$f")"; done > {BEFORE}/kernel
sync; touch {BEFORE}/complete"""


def backup(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """A snapshot of the data, restored into a throwaway server and compared. It stays on the way back."""
    if passage.level >= 0 and (passage.again or not survey.file(VERIFIED).kind):
        yield Difference("there is no verified backup", _backup(passage.site.bundle.engine))


def _backup(engine: Engine) -> str:
    dump, alone = f"{engine.data_folder}/dump.rdb", f"{FOLDER}/without-dump"
    return f"""umask 077; rm -rf {VERIFIED} {BACKUP} {BACKUP}.new {_SCRATCH}
{access(engine)}
{_SHELL.format(seconds=BACKUP_SECONDS, samples=SAMPLES)}
as="setpriv --reuid={engine.user} --regid={engine.user} --clear-groups"
# What the server's user may write, it could make a link: it reads there what it reads anyway, and root nothing of it.
w=$(mktemp -d {FOLDER}/compare.XXXXXX); d=$(mktemp -d {STATE}/.redkeep-restore.XXXXXX); p=
chown root:{engine.user} "$d"; chmod 0750 "$d"; install -d -m 0700 -o {engine.user} -g {engine.user} "$d/run"
ended() {{ [ -z "$p" ] || {{ kill -9 $p 2>/dev/null || true; }}; rm -rf "$w" "$d" {BACKUP}.new; }}
trap ended EXIT
databases=$(r INFO keyspace | tr -d '\\r' | sed -n 's/^db\\([0-9]*\\):.*/\\1/p')
for n in $databases; do keys_of $n > "$w/keys$n"; looked_at r $n > "$w/first$n"; done
# A server that keeps nothing on disk must not find what is of this moment at a later start.
[ -n "$(r CONFIG GET save | tail -1)" ] || [ -e {dump} ] || touch {alone}
sleep 1.1; since=$(date +%s)
i=0; until answer=$(r BGSAVE 2>&1); case "$answer" in *started*) true;; *) false;; esac; do
    case "$answer" in *progress*) ;; *) echo "the snapshot does not start: $answer" >&2; exit 1;; esac
    i=$((i+1)); [ $i -lt {BACKUP_SECONDS} ] || {{ echo 'another snapshot does not finish' >&2; exit 1; }}; sleep 1
done
while [ "$(told rdb_bgsave_in_progress)" = 1 ]; do sleep 0.2; done
[ "$(told rdb_last_bgsave_status)" = ok ] && [ "$(r LASTSAVE)" -ge $since ] ||
    {{ echo "the snapshot failed; the server's log ends with: $(tail -2 {engine.log_file})" >&2; exit 1; }}
for n in $databases; do looked_at r $n > "$w/second$n"; done
$as cat {dump} > "$d/dump.rdb"
chown root:{engine.user} "$d/dump.rdb"; chmod 0640 "$d/dump.rdb"
if [ -e {alone} ]; then rm -f {dump}; rm -f {alone}; fi
sync "$d/dump.rdb"; sum=$(sha256sum < "$d/dump.rdb" | cut -d' ' -f1)
$as {engine.server} --port 0 --unixsocket "$d/run/s" \\
    --unixsocketperm 700 --dir "$d" --dbfilename dump.rdb --save '' --appendonly no --daemonize no --logfile '' \\
    --databases "$(r CONFIG GET databases | tail -1)" --rdbcompression "$(r CONFIG GET rdbcompression | tail -1)" </dev/null >"$w/log" 2>&1 & p=$!
i=0; until grep -qi 'ready to accept connections' "$w/log"; do
    kill -0 $p 2>/dev/null && [ $i -lt {BACKUP_SECONDS}0 ] ||
        {{ echo "the backup does not load: $(tail -3 "$w/log")" >&2; exit 1; }}
    i=$((i+1)); sleep 0.1
done
t() {{ timeout 60 env -u REDISCLI_AUTH {engine.cli} -s "$d/run/s" "$@"; }}
compared=0
for n in $databases; do
    looked_at t $n > "$w/restored$n"; looked_at r $n > "$w/third$n"
    # What the clients have changed meanwhile proves nothing.
    LC_ALL=C comm -12 "$w/first$n" "$w/second$n" | LC_ALL=C comm -12 - "$w/third$n" > "$w/steady$n"
    wrong=$(LC_ALL=C comm -23 "$w/steady$n" "$w/restored$n" | grep -c . || true)
    [ "$wrong" = 0 ] || {{
        echo "$wrong of $(grep -c . < "$w/steady$n") keys checked in database $n differ in the backup, which has" \\
            "$(grep -c . < "$w/restored$n" || true) of them: $(tail -1 "$w/log")" >&2; exit 1
    }}
    compared=$((compared + $(grep -c . < "$w/steady$n" || true)))
done
set -- $(sed -n 's/.*keys loaded: \\([0-9]*\\), keys expired: \\([0-9]*\\).*/\\1 \\2/p' "$w/log") 0 0
read=$({engine.cli.removesuffix("-cli")}-check-rdb "$d/dump.rdb" | sed -n 's/.*] \\([0-9]*\\) keys read.*/\\1/p')
[ "$read" = $(($1 + $2)) ] || {{ echo "the backup holds $read keys, and the throwaway server loaded $1" >&2; exit 1; }}
[ "$sum" = "$(sha256sum < "$d/dump.rdb" | cut -d' ' -f1)" ]
chown root:root "$d/dump.rdb"; chmod 0600 "$d/dump.rdb"; mv -f "$d/dump.rdb" {BACKUP}
printf 'sha256 %s\\nkeys %s\\ncompared %s\\nbytes %s\\n' "$sum" "$1" "$compared" "$(stat -c %s {BACKUP})" > {VERIFIED}.new
sync {BACKUP} {VERIFIED}.new; mv -f {VERIFIED}.new {VERIFIED}"""


# Key names stay in redis-cli's own quoting from one call to the next: they may hold any byte.
_SHELL = """told() {{ r INFO persistence | tr -d '\\r' | sed -n "s/^$1://p"; }}
keys_of() {{ yes RANDOMKEY | head -{samples} | r --no-raw -n "$1" | grep '^"' | LC_ALL=C sort -u; }}
looked_at() {{
    while IFS= read -r k; do printf 'ECHO %s\\nTYPE %s\\nPEXPIRETIME %s\\nGET %s\\n' "$k" "$k" "$k" "$k"; done < "$w/keys$2" |
        "$1" --no-raw -n "$2" > "$w/answers" || true
    [ $(wc -l < "$w/answers") = $(($(wc -l < "$w/keys$2") * 4)) ] ||
        {{ echo "a server did not answer in time while keys of database $2 were compared: run again" >&2; exit 1; }}
    paste - - - - < "$w/answers" |
        awk -F '\\t' '$2 == "string" {{ print; next }} $2 != "none" {{ print $1 "\\t" $2 "\\t" $3 }}' | LC_ALL=C sort
}}"""


def plan(passage: Passage, survey: Survey) -> Iterator[Difference]:
    """The way back on paper, for whoever has to go it without us."""
    if passage.level < 0:
        return
    lines = ["The way back, stage by stage, the last one first. For each, run: pyinfra INVENTORY deploys/rollback.py", ""]
    for stage in reversed(STAGES):
        lines.append(f"{stage.name}: {stage.rollback}.")
    engine = passage.site.bundle.engine
    lines += [
        "",
        "By hand, when nothing else works (root on this host):",
        f"  redkeep-cli SAVE || {engine.cli} SAVE   # the data of this moment: after the stage close a stop writes nothing",
        f"  cp -a {original_file(engine)} {engine.config}",
        f"  rm -f {engine.drop_in}; systemctl daemon-reload",
        f"  systemctl stop {engine.unit}",
        f"  install -o {engine.user} -g {engine.user} -m 0660 {BACKUP} {engine.data_folder}/dump.rdb   # only if the data is lost",
        f"  systemctl start {engine.unit}",
        "",
    ]
    yield from file_differences([ManagedFile(PLAN, "\n".join(lines).encode(), mode="0600")], survey)
