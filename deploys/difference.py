"""One thing that is not as wanted, and the shell that makes it so.

A concern is a plain function from what is wanted and what was surveyed to a list of these. The deploy runs their
scripts, status prints their sentences: both see the same list.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from deploys.facts.survey import LOCK, LOCK_SECONDS, FileState, Survey

# The folders that are written to, and the KiB below which their disk counts as full.
_WRITTEN = "/etc /opt /usr/local /var/lib /var/log"
_FULL_KIB = 1024


def locked(script: str) -> str:
    """Shell that runs a script under ``set -eu``, alone on the host. What the script starts does not inherit the lock. When
    it fails and a disk is full, that is said: the words of whoever could not write seldom are.

    When the operator's side is gone, a word of the script goes to a closed pipe: the signal ends it by way of its own
    cleaning up, which a shell leaves out otherwise.
    """
    # Whoever may open the file may hold the lock: nobody but root, from its birth on.
    return f"""u=$(umask); umask 077; exec 9>{LOCK}; umask "$u"; chmod 0600 {LOCK}
flock -w {LOCK_SECONDS} 9 || {{ echo "another deploy is running on this host (it holds {LOCK}): wait for its end, then run again." >&2; exit 1; }}
(
set -eu
trap 'exit 1' HUP INT PIPE TERM
{script}
) 9>&-
code=$?
[ $code = 0 ] || df -Pk {_WRITTEN} 2>/dev/null | awk 'NR > 1 && $4 < {_FULL_KIB} && !seen[$6]++ {{
    print "the disk of " $6 " is full (" $4 " KiB free): make room, then run again." }}' >&2
exit $code"""


@dataclass(frozen=True)
class Difference:
    """``what`` names the thing, what it is and what it should be, without a secret. ``script`` runs as root under
    ``set -eu``; ``stdin`` is its standard input, where secrets travel."""

    what: str
    script: str = field(repr=False)
    stdin: str | Callable[[], str] = field(default="", repr=False)


@dataclass(frozen=True)
class ManagedFile:
    """A file as it shall be. ``mode`` is octal text, e.g. "0640"."""

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: str = "0644"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def wrong(self, found: FileState) -> str:
        """What is wrong with the file on the host, or an empty text."""
        if not found.kind:
            return "is missing"
        if found.kind != "file":
            return f"is a {found.kind}, wanted a file"
        if found.sha256 != self.sha256:
            return "has different content"
        return wrong_access(found, self.owner, self.group, self.mode)


def wrong_access(found: FileState, owner: str, group: str, mode: str) -> str:
    if int(found.mode, 8) != int(mode, 8):
        return f"has mode {found.mode}, wanted {mode}"
    if (found.owner, found.group) != (owner, group):
        return f"belongs to {found.owner}:{found.group}, wanted {owner}:{group}"
    return ""


def file_differences(files: Iterable[ManagedFile], survey: Survey, *, before: str = "", after: str = "") -> list[Difference]:
    """One difference a file: written beside its place with its final mode from birth, then moved there at once.

    ``before`` is shell that runs when the new text is ready as "$t" but not yet in place, and stops the move by failing;
    ``after`` is shell that runs once the file is in place.
    """
    found = []
    for file in files:
        if wrong := file.wrong(survey.file(file.path)):
            script = place(file, before)
            found.append(Difference(f"file {file.path} {wrong}", f"{script}\n{after}".strip(), encode(file.content)))
    return found


def place(file: ManagedFile, before: str = "") -> str:
    """Shell that reads base64 from standard input and puts it in place, atomically and with no looser moment."""
    target, beside = shlex.quote(file.path), shlex.quote(posixpath.dirname(file.path) + "/.redkeep.")
    # The script has the host to itself: what such a name has now was left by a host that lost its power.
    return f"""umask 077; rm -f {beside}????????; t=$(mktemp {beside}XXXXXXXX); trap 'rm -f "$t"' EXIT
base64 -d > "$t"; [ "$(stat -c %s "$t")" = {len(file.content)} ] || {{ echo 'the text arrived incomplete' >&2; exit 1; }}
chown {file.owner}:{file.group} "$t"; chmod {file.mode} "$t"; sync "$t"
{before}
if [ -d {target} ] && [ ! -L {target} ]; then rm -rf {target}; fi
mv -fT "$t" {target}"""


def encode(content: bytes) -> str:
    """Base64 in lines that a shell's and sshd's buffers like."""
    return base64.encodebytes(content).decode()


def folder_differences(folders: Sequence[tuple[str, str, str, str]], survey: Survey) -> list[Difference]:
    """Folders as (path, owner, group, mode), parents first."""
    found = []
    for path, owner, group, mode in folders:
        state = survey.file(path)
        wrong = "is missing" if not state.kind else f"is a {state.kind}" if state.kind != "directory" else ""
        if wrong := wrong or wrong_access(state, owner, group, mode):
            quoted = shlex.quote(path)
            found.append(
                Difference(
                    f"folder {path} {wrong}",
                    f"if [ -e {quoted} ] && [ ! -d {quoted} ] || [ -L {quoted} ]; then rm -f {quoted}; fi\n"
                    f"[ -d {quoted} ] || install -d -m {mode} -o {owner} -g {group} {quoted}\n"
                    # The fifth digit takes away a set-group-ID bit, which chmod keeps on folders otherwise.
                    f"chown {owner}:{group} {quoted}; chmod 0{mode} {quoted}",
                )
            )
    return found
