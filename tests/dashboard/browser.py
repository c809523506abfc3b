"""A real headless Chromium, and the dashboard as a process of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from redkeep.cli.dashboard import streamlit
from tests.api.service import Api, command
from tests.redis.server import free_port

START_SECONDS = 60
PHONE, DESK = (390, 844), (1280, 900)


@contextmanager
def showing(variables: Mapping[str, str], folder: Path, page: Path | None = None) -> Iterator[str]:
    """A running dashboard with these variables, or another page with the dashboard's settings; yields its address."""
    port = free_port()
    words = streamlit(page, "127.0.0.1", port) if page else command("dashboard", "--port", str(port))
    log = folder / f"dashboard-{port}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(words, env=dict(variables), stdout=written, stderr=written, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the dashboard did not start: {log.read_text()}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(15)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_stcore/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Debian's Chromium with Debian's driver; nothing is fetched."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "force-device-scale-factor=1"):
        options.add_argument(f"--{word}")
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What a person sees; `api` is what the dashboard asks."""

    def __init__(self, driver: Chrome, url: str, api: Api) -> None:
        self.driver = driver
        self.url = url
        self.api = api

    def open(self, *, size: tuple[int, int] = DESK, dark: bool = False) -> None:
        """Load the page anew."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        self.driver.get(self.url)
        assert self.until(lambda: bool(self.text(".rk-hero h1"))), self.body()

    def until(self, there: Callable[[], bool], *, seconds: float = 30) -> bool:
        """Whether it became so in time."""
        end = time.monotonic() + seconds
        while not there() and time.monotonic() < end:
            time.sleep(0.1)
        return there()

    def text(self, selector: str) -> str:
        """The words of the first element, as shown; empty when there is none."""
        found = self.driver.execute_script("return document.querySelector(arguments[0])?.innerText", selector)
        return str(found or "")

    def body(self) -> str:
        """Everything that can be read."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def tab(self, name: str) -> None:
        """Choose one of the tabs."""
        (chosen,) = [tab for tab in self.driver.find_elements(By.CSS_SELECTOR, '[role="tab"]') if tab.text == name]
        chosen.click()

    def choose(self, field: str, option: str) -> None:
        """Choose an option of the select box with this label."""
        self._soon(f'[data-testid="stSelectbox"] input[aria-label*="{field}"]').send_keys(option, Keys.ENTER)

    def press(self, name: str) -> None:
        """Click the button with this text."""
        self._soon('[data-testid="stButton"] button', name).click()

    def _soon(self, selector: str, text: str = "") -> WebElement:
        """The first element with this text, once it is drawn: Streamlit fetches the code of a field when it meets the first."""

        def found() -> list[WebElement]:
            return [each for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if not text or each.text == text]

        assert self.until(lambda: bool(found())), self.body()
        return found()[0]

    def rows(self) -> dict[str, tuple[str, str]]:
        """The rows of the chosen tab: name -> class and everything it says."""
        script = """return [...document.querySelectorAll('[role=tabpanel] .rk-list li')].filter(e => e.offsetParent)
            .map(e => [e.querySelector('.rk-name b').innerText, e.className, e.innerText])"""
        return {name: (kind, words) for name, kind, words in self.driver.execute_script(script)}

    def width(self) -> int:
        """How wide what is shown is, in pixels."""
        script = "return Math.max(...[...document.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))"
        return int(self.driver.execute_script(script))
