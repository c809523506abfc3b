"""Alerts by e-mail: STARTTLS (RFC 3207) or TLS from the start (RFC 8314), with a login; never in plaintext."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate
from typing import Any, Final

from redkeep.errors import AlertError
from redkeep.monitoring.alert import Alert
from redkeep.monitoring.alert_settings import Mail
from redkeep.monitoring.words import harmless

STEP_SECONDS: Final = 10.0
"""For each reply of the mail server."""


class MailChannel:
    """One SMTP account. A session a mail: alerts are few, and an idle connection would be closed anyway."""

    name = "email"
    deadline_seconds = 30.0

    def __init__(self, settings: Mail) -> None:
        self._settings = settings

    async def send(self, alert: Alert) -> None:
        """Hand the mail to the server. Raises AlertError; the server's own words are not repeated, they can hold anything."""
        sessions: list[smtplib.SMTP] = []
        work = asyncio.ensure_future(_in_thread(lambda: self._deliver(self.message(alert), sessions)))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            for session in sessions:
                _cut(session)
            work.cancel()
            raise

    def message(self, alert: Alert) -> EmailMessage:
        """The mail: plain text, one line a detail, every value harmless in a header."""
        mail = EmailMessage(policy=SMTP_POLICY)
        mail["Subject"] = harmless(f"[redkeep] {alert.state}: {alert.title} ({alert.host})", limit=150)
        mail["From"] = self._settings.sender
        mail["To"] = ", ".join(self._settings.recipients)
        mail["Date"] = formatdate(alert.timestamp.timestamp())
        mail["Message-ID"] = f"<redkeep.{alert.id}@{self._settings.sender.rpartition('@')[2]}>"  # a repeat shows as the same mail
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday notice answers
        facts = {"state": alert.state, "severity": alert.severity, "host": alert.host, "time": alert.timestamp.isoformat(), **alert.details}
        lines = [f"{name}: {harmless(str(value), limit=300)}" for name, value in facts.items() if value not in (None, "")]
        mail.set_content("\n".join([harmless(alert.message, limit=1_000), "", *lines, ""]))
        return mail

    def _deliver(self, mail: EmailMessage, sessions: list[smtplib.SMTP]) -> None:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
            with self._session(context, sessions) as session:
                if settings.security == "starttls":
                    session.ehlo()
                    if not session.has_extn("starttls"):
                        raise AlertError("the mail server offers no STARTTLS; nothing was sent")
                    session.starttls(context=context)
                if settings.username is not None and settings.password is not None:
                    session.login(settings.username, settings.password)
                refused = session.send_message(mail, settings.sender, settings.recipients)
            if refused:  # the others have it: trying again would tell them twice
                raise AlertError(f"the mail server refused {len(refused)} of {len(settings.recipients)} recipients; see SECURITY_ALERT_EMAIL")
        except AlertError:
            raise
        except smtplib.SMTPAuthenticationError:
            raise AlertError("the mail server refused the login; check SECURITY_ALERT_SMTP_USERNAME and its password") from None
        except smtplib.SMTPRecipientsRefused:
            raise AlertError("the mail server refused the recipients; check SECURITY_ALERT_EMAIL") from None
        except smtplib.SMTPResponseException as error:
            raise AlertError(f"the mail server answered {error.smtp_code}", again=400 <= error.smtp_code < 500) from None
        except smtplib.SMTPNotSupportedError:
            raise AlertError("the mail server accepts no login; remove SECURITY_ALERT_SMTP_USERNAME, or check the port") from None
        except ssl.SSLCertVerificationError as error:
            raise AlertError(f"the mail server's certificate is not valid ({error.verify_message})") from None
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise AlertError(f"the mail server cannot be reached ({type(error).__name__})", again=True) from None

    def _session(self, context: ssl.SSLContext, sessions: list[smtplib.SMTP]) -> smtplib.SMTP:
        settings = self._settings
        kind: type[smtplib.SMTP] = smtplib.SMTP_SSL if settings.security == "tls" else smtplib.SMTP
        options: dict[str, Any] = {"context": context} if settings.security == "tls" else {}

        class Session(kind):  # type: ignore[misc,valid-type]  # one of two classes
            def connect(self, *arguments: Any, **named: Any) -> Any:
                sessions.append(self)  # from here on it can be cut
                return super().connect(*arguments, **named)

        made: smtplib.SMTP = Session(settings.host, settings.port, timeout=STEP_SECONDS, **options)
        return made


def _cut(session: smtplib.SMTP) -> None:
    if session.sock is not None:
        with suppress(OSError):
            session.sock.shutdown(socket.SHUT_RDWR)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run it in a thread of its own that ends with the process: a server that hangs holds up nobody, not even an exit."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        failed: BaseException | None = None
        try:
            work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(finish, failed)

    threading.Thread(target=run, name="redkeep-alert-mail", daemon=True).start()
    await done
