"""The way to the API: one key, one address, and one sentence for whatever goes wrong."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from redkeep.dashboard.address import is_loopback

DEFAULT_URL: Final = "http://127.0.0.1:8765"
TIMEOUT_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 3.0
"""After no answer: each part of the page would wait for the same silence."""

POST_SECONDS: Final = 45.0
"""A test alert waits for the slowest mail server: 30 seconds by the API's word."""


class SettingsWrong(Exception):
    """The dashboard's settings do not do; the text says which, and the next step."""


class ApiAway(Exception):
    """The API did not answer, or not with what was asked; the text says why, and the next step.

    `answered` is whether something came back at all.
    """

    def __init__(self, sentence: str, *, answered: bool = False) -> None:
        super().__init__(sentence)
        self.answered = answered


class Client:
    """Speaks HTTP to the API and to nothing else: no proxy, no redirect, TLS or this host alone."""

    def __init__(self, url: str, key: str, *, ca_file: Path | None = None, insecure_http: bool = False) -> None:
        """Raises SettingsWrong. `insecure_http` allows plain HTTP to another host."""
        self.url = check_url(url, insecure_http=insecure_http)
        verify: ssl.SSLContext | bool = True
        if self.url.startswith("https://"):
            try:
                verify = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            except (OSError, ValueError):
                raise SettingsWrong(f"REDKEEP_API_CA_FILE: {ca_file} is not a readable file of certificates") from None
            verify.minimum_version = ssl.TLSVersion.TLSv1_3
        self._http = httpx.Client(
            base_url=self.url, headers={"X-API-Key": key}, verify=verify, follow_redirects=False,
            trust_env=False,
        )  # fmt: skip
        self._silent: tuple[float, str] = (0.0, "")

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Client:
        """The API of REDKEEP_API_URL with the key of REDKEEP_API_KEY or REDKEEP_API_KEY_FILE. Raises SettingsWrong."""
        variables = os.environ if variables is None else variables
        ca = variables.get("REDKEEP_API_CA_FILE")
        insecure = variables.get("REDKEEP_INSECURE_HTTP", "").lower() == "true"
        url = variables.get("REDKEEP_API_URL", DEFAULT_URL)
        return cls(url, read_key(variables), ca_file=Path(ca) if ca else None, insecure_http=insecure)

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON of a route. Raises ApiAway."""
        return self._ask("GET", path, query)

    def post(self, path: str) -> Any:
        """The JSON of what a route answers to a POST without a body. Raises ApiAway."""
        return self._ask("POST", path, {}, timeout=POST_SECONDS)

    def _ask(self, method: str, path: str, query: Mapping[str, str | int], *, timeout: float = TIMEOUT_SECONDS) -> Any:
        until, why = self._silent
        if time.monotonic() < until:
            raise ApiAway(why)
        try:
            answer = self._http.request(method, path, params=dict(query), timeout=timeout)
        except httpx.HTTPError as error:
            why = self._reason(error, timeout)
            self._silent = (time.monotonic() + PAUSE_SECONDS, why)
            raise ApiAway(why) from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise ApiAway(f"The API at {self.url} refuses this dashboard's key; set the same REDKEEP_API_KEY for both.", answered=True)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise ApiAway(f"Too many requests: the API asks for a pause of {answer.headers.get('Retry-After', 'some')} s.", answered=True)
        if answer.status_code != httpx.codes.OK:
            raise ApiAway(f"The API at {self.url} answered {answer.status_code} to {path}; its log says why.", answered=True)
        try:
            return answer.json()
        except ValueError:
            raise ApiAway(f"What answers at {self.url} is not Redkeep's API; check REDKEEP_API_URL.", answered=True) from None

    def _reason(self, error: httpx.HTTPError, timeout: float) -> str:
        if isinstance(error, httpx.TimeoutException):
            return f"{self.url} did not answer within {timeout:.0f} s."
        if not isinstance(error, httpx.ConnectError):
            return f"The connection to {self.url} broke ({type(error).__name__})."
        if "certificate" in str(error).lower():
            return f"{self.url} presents a certificate that is not trusted; set REDKEEP_API_CA_FILE to its CA."
        if "SSL" in str(error):
            return f"What answers at {self.url} does not speak TLS 1.3; check REDKEEP_API_URL."
        return f"Nothing answers at {self.url}. Start the API with `redkeep serve`, or open the tunnel to it."


def check_url(url: str, *, insecure_http: bool = False) -> str:
    """The address without a slash at its end. Raises SettingsWrong unless it is https, or http to this very host.

    `insecure_http` allows http to others: inside a container's own network.
    """
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname, parts.scheme
        port = parts.port
    except ValueError:
        host, scheme, port = None, "", None
    if scheme not in ("http", "https") or not host or port == 0 or parts.username or parts.query or parts.fragment:
        raise SettingsWrong("REDKEEP_API_URL must be like http://127.0.0.1:8765 or https://host:port, without credentials")
    if scheme == "http" and not is_loopback(host) and not insecure_http:
        raise SettingsWrong(
            "REDKEEP_API_URL is plain http to another host, where the key could be read on the way; use https, or a tunnel: "
            "ssh -L 8765:127.0.0.1:8765 HOST"
        )
    return url.rstrip("/")


def read_key(variables: Mapping[str, str]) -> str:
    """The key of REDKEEP_API_KEY or of the file that REDKEEP_API_KEY_FILE names. Raises SettingsWrong."""
    key, pointer = variables.get("REDKEEP_API_KEY"), variables.get("REDKEEP_API_KEY_FILE")
    if key and pointer:
        raise SettingsWrong("REDKEEP_API_KEY and REDKEEP_API_KEY_FILE are both set; keep one")
    if pointer:
        try:
            key = Path(pointer).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise SettingsWrong(f"REDKEEP_API_KEY_FILE: {pointer} cannot be read by this user") from None
    if not key:
        raise SettingsWrong("REDKEEP_API_KEY is not set; set it to the key of the API")
    if not key.isascii() or not key.isprintable():
        raise SettingsWrong("REDKEEP_API_KEY contains characters that a header cannot carry; set it to the key of the API")
    return key
