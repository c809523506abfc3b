"""What a person sees in a real browser: the one answer, attacks, strangers' names, an API that is gone; dark and on a phone."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from redkeep.dashboard.words import days
from tests.api.service import Api, environment, serving
from tests.api.test_routes import guess
from tests.dashboard.browser import PHONE, Page, showing
from tests.dashboard.stack import dashboard_environment
from tests.redis.server import Server
from tests.unit.test_dashboard_client import Answers, answering

TITLES = {"ok": "Redis is secured", "weak": "Security issues", "unknown": "Some checks could not run"}
SIDES = {"ok": "Redis Secured", "weak": "Security Issues", "unknown": "Some Checks Could Not Run"}
HOSTILE = '<img src=x onerror="window.hacked=1">', "**bold** [x](javascript:window.hacked=1)", "\x1b[31m\r\nred", "A" * 10_000


def test_the_answer_is_the_apis(page: Page, api: Api) -> None:
    """Head, sidebar and every control say what the API says."""
    page.open()
    status = api.get("/monitoring/security-status").json()
    assert page.until(lambda: page.text(".rk-hero h1") == TITLES[status["state"]])
    assert page.until(lambda: SIDES[status["state"]] in page.text('[data-testid="stSidebar"]'))
    assert page.until(lambda: len(page.rows()) >= len(status["posture"]))
    rows = page.rows()
    for control in status["posture"]:
        kind, words = rows[control["name"]]
        assert "rk-" + control["state"].replace(" ", "-") == kind
        assert control["evidence"].split()[0] in words
    assert {"server", "client", "CA"} <= set(rows)
    (key,) = status["key_ages"]
    age = f"encrypts and decrypts, seen here since {key['first_seen'][:10]}", f"{days(key['age_days'])} old"
    assert ("rk-ok", True) == (rows[key["key_id"]][0], all(words in rows[key["key_id"]][1] for words in age))
    for each in status["certificates"]:
        assert f"{days(each['days_left'])} left" in rows[each["whose"]][1]


def test_how_old_the_answer_is(driver: Chrome, redis: Server, tmp_path: Path) -> None:
    """The head says how many seconds ago the API probed, more with each look until it probes again; the sidebar says who is asked how often."""
    with serving(environment(redis), tmp_path, "--interval", "600") as api, showing(dashboard_environment(api, tmp_path), tmp_path) as url:
        page = Page(driver, url, api)
        page.open()
        assert f"Asks {api.url} every 4 seconds" in " ".join(page.text('[data-testid="stSidebar"]').split())
        ages: list[int] = []

        def looked_thrice() -> bool:
            found = re.search(r" · checked (\d+) s ago$", page.text(".rk-hero p"))
            ages.extend([int(found[1])] if found and int(found[1]) not in ages else [])
            return len(ages) > 2

        assert page.until(looked_thrice), page.text(".rk-hero p")
        assert sorted(ages) == ages


def test_a_weakness_turns_red_with_its_remedy_and_green_again(page: Page, redis: Server) -> None:
    """Without a reload."""
    page.open()
    assert page.until(lambda: page.rows().get("no login without password", ("",))[0] == "rk-ok")
    with redis.log_in() as operator:
        assert operator.ask(("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all")) == ["OK"]
        try:
            assert page.until(lambda: page.rows()["no login without password"][0] == "rk-weak")
            assert "→" in page.driver.execute_script("return getComputedStyle(document.querySelector('.rk-weak mark'), '::before').content")
            assert page.until(lambda: page.text(".rk-hero h1") == "Security issues")
            assert "Security Issues" in page.text('[data-testid="stSidebar"]')
            assert next(iter(page.rows().values()))[0] == "rk-weak"
        finally:
            assert operator.ask(("ACL", "SETUSER", "default", "reset", "off", "sanitize-payload", "-@all")) == ["OK"]
    assert page.until(lambda: page.rows()["no login without password"][0] == "rk-ok")


def test_an_attack_appears_and_strangers_names_do_nothing(page: Page, redis: Server) -> None:
    """Refused logins show up by themselves; markup, Markdown, escapes and length stay text."""
    page.open()
    page.tab("Events")
    guess(redis, *["cache_service"] * 3, *HOSTILE)
    assert page.until(lambda: "login refused" in page.rows() and "onerror" in page.body())
    body = page.body()
    assert '<img src=x onerror="window.hacked=1">' in body
    assert "**bold** [x](javascript:window.hacked=1)" in body
    assert r"\x1b[31m\r\nred" in body
    assert "A" * 100 not in body
    assert page.driver.execute_script("return [window.hacked ?? null, document.querySelectorAll('.rk-list img, .rk-list a').length]") == [None, 0]
    assert page.until(lambda: page.text(".rk-tile b") == "7")


def test_a_weakness_that_none_of_the_five_fields_tells(page: Page, redis: Server) -> None:
    """Where four ticks hold and a control does not, the sidebar does not say that Redis is secured."""
    page.open()
    with redis.log_in() as operator:
        assert operator.ask(("ACL", "SETUSER", "health_service", "+debug")) == ["OK"]
        try:
            assert page.until(lambda: page.rows().get("dangerous commands", ("",))[0] == "rk-weak")
            assert page.until(lambda: "Security Issues" in page.text('[data-testid="stSidebar"]'))
            fields = ("redis_authenticated", "tls_enabled", "encryption_enabled", "network_isolated")
            status = page.api.get("/monitoring/security-status").json()
            assert [True] * 4 == [status[name] for name in fields]
        finally:
            assert operator.ask(("ACL", "SETUSER", "health_service", "-debug")) == ["OK"]


def test_an_alert_that_lasts_stands_in_the_head(page: Page, redis: Server) -> None:
    """On whichever tab, and in the list of alerts."""
    guess(redis, *["cache_service"] * 12)
    page.open()
    title = "High Authentication Failures"
    assert page.until(lambda: title in page.body())
    page.tab("Alerts")
    assert page.until(lambda: page.rows().get(title, ("",))[0] == "rk-weak")
    recent = page.api.get("/internal/monitoring/alerts").json()["recent"]
    assert [title] == [each["title"] for each in recent if each["state"] == "firing" and each["message"] in page.rows()[title][1]]


def test_how_soon_an_attack_is_seen(page: Page, redis: Server, soak: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """From a stranger's wrong passwords to a page that nobody touches: the figure in its head has grown, and the event has its row.

    The seconds are printed; a look of two, the page's four, and two of its memory add up to eight at most, and drawing.
    """
    page.open()
    page.tab("Events")
    assert page.until(lambda: page.text(".rk-tile b").isdigit())
    took = []
    for number in range(20 if soak else 2):
        time.sleep(number * 0.37 % 4)  # at another moment of the page's own beat
        took.append(seconds_until_seen(page, redis))
    with capsys.disabled():
        print(f"\nan attack is seen on the page after {sum(took) / len(took):.1f} s in the mean, {max(took):.1f} s at most ({len(took)} attacks)")


def seconds_until_seen(page: Page, redis: Server) -> float:
    """From three wrong passwords under a name of its own until the page's head has counted them and shows the name."""
    name, before = f"stranger-{secrets.token_hex(3)}", int(page.text(".rk-tile b"))
    guess(redis, *[name] * 3)
    began = time.monotonic()
    assert page.until(lambda: name in page.body() and int(page.text(".rk-tile b")) >= before + 3, seconds=60), page.body()
    return time.monotonic() - began


def test_a_filter_leaves_one_kind(page: Page, redis: Server) -> None:
    """The one that was chosen."""
    guess(redis, "somebody")
    page.open()
    page.tab("Events")
    assert page.until(lambda: {"login refused", "new client"} <= set(page.rows()))
    page.choose("Kind", "new client")
    assert page.until(lambda: set(page.rows()) == {"new client"})


def test_a_filter_by_severity(page: Page, redis: Server) -> None:
    """What is worth a warning is gone when only the rest is asked for."""
    guess(redis, "somebody")
    page.open()
    page.tab("Events")
    assert page.until(lambda: {"login refused", "new client"} <= set(page.rows()))
    page.choose("Severity", "info")
    assert page.until(lambda: "login refused" not in page.rows() and "new client" in page.rows())
    assert {"rk-ok"} == {kind for kind, _ in page.rows().values()}


def test_plots_and_servers(page: Page, redis: Server) -> None:
    """Each server has a line, and both plots are drawn."""
    page.open()
    page.tab("Activity")
    assert page.until(lambda: f"127.0.0.1:{redis.port}" in page.rows())
    assert "keys" in page.rows()[f"127.0.0.1:{redis.port}"][1]
    drawn = "return [...document.querySelectorAll('[data-testid=stVegaLiteChart] svg')].filter(e => e.clientWidth > 100).length"
    assert page.until(lambda: page.driver.execute_script(drawn) == 2)


def test_the_test_alert(page: Page) -> None:
    """One click, and each channel says whether it delivered; who clicks too often is told so, in red."""
    page.open()
    page.tab("Alerts")
    assert page.until(lambda: "not configured" in page.rows().get("email", ("", ""))[1])
    page.press("Send a test alert")
    assert page.until(lambda: "delivered" in page.rows().get("log", ("", ""))[1] and "test" in page.body())
    while page.api.ask("POST", "/internal/monitoring/alerts/test").status_code != 429:
        continue
    page.press("Send a test alert")
    assert page.until(lambda: page.rows().get("test", ("", ""))[0] == "rk-weak")
    assert "asks for a pause of" in page.rows()["test"][1]


def test_on_a_phone(page: Page, redis: Server) -> None:
    """Nothing is wider than the screen, a stranger's long name neither, and the answer is the first thing there."""
    guess(redis, "W" * 200)
    page.open(size=PHONE)
    for tab in ("Posture", "Activity", "Events", "Alerts"):
        page.tab(tab)
        assert page.until(lambda: bool(page.rows()))
        assert tab != "Events" or page.until(lambda: "WWW" in page.body())
        assert page.width() <= PHONE[0]
        shapes = """const right = element => element.getBoundingClientRect().right;
            return [...document.querySelectorAll('[role=tabpanel] .rk-list li')].filter(e => e.offsetParent).map(row =>
                [row.querySelector('.rk-body').clientWidth, right(row) - right(row.querySelector('.rk-note'))])"""
        for body, gap in page.driver.execute_script(shapes):
            assert body > 290, "what a row says has the whole width"
            assert gap < 20, "a row's note stands at its end"
    edges = """const box = selector => document.querySelector(selector).getBoundingClientRect();
        return [box('[data-testid=stExpandSidebarButton]').bottom, box('.rk-hero').top]"""
    button, top = page.driver.execute_script(edges)
    assert button <= top < 200, "the way to the sidebar does not cover the answer"
    lefts = "return new Set([...document.querySelectorAll('.rk-tile')].map(e => e.getBoundingClientRect().left)).size"
    assert 2 == page.driver.execute_script(lefts), "figures stand in two columns"


def test_light_and_dark_follow_the_browser(page: Page) -> None:
    """Dark text on light, light text on dark."""
    found = {}
    for dark in (False, True):
        page.open(dark=dark)
        colours = "const s = getComputedStyle(document.querySelector('.stApp')); return [s.backgroundColor, s.color]"
        found[dark] = [sum(map(int, text[4:-1].split(","))) for text in page.driver.execute_script(colours)]
    assert found[False][0] > 600 > 300 > found[False][1]
    assert found[True][0] < 300 < 600 < found[True][1]


def test_an_api_that_is_away(page: Page, api: Api) -> None:
    """It is said within seconds, with the next step, and nothing stays green; the page recovers by itself."""
    page.open()
    assert page.until(lambda: "login" in page.rows())
    os.kill(api.process.pid, signal.SIGSTOP)
    try:
        assert page.until(lambda: page.text(".rk-hero h1") == "The API does not answer")
        assert "did not answer within 5 s" in page.text(".rk-hero p")
        assert page.until(lambda: "Unknown: the API does not answer" in page.text('[data-testid="stSidebar"]'))
        assert "Authentication" not in page.text('[data-testid="stSidebar"]')
        assert page.until(lambda: not page.rows())
    finally:
        os.kill(api.process.pid, signal.SIGCONT)
    assert page.until(lambda: "login" in page.rows(), seconds=60)


def test_a_wrong_key_is_said(api: Api, driver: Chrome, tmp_path: Path) -> None:
    """On the page, in one sentence, without the key."""
    wrong = {"REDKEEP_API_KEY": "another"}  # pragma: allowlist secret - a wrong one
    with showing(dashboard_environment(api, tmp_path, **wrong), tmp_path) as url:
        page = Page(driver, url, api)
        page.open()
        assert page.until(lambda: "refuses this dashboard's key" in page.text(".rk-hero p"))
        assert "The API returned no status" == page.text(".rk-hero h1")
        assert page.until(lambda: "Unknown: the API returned no status" in page.text('[data-testid="stSidebar"]'))
        assert api.key not in driver.page_source


def test_a_stranger_in_the_apis_place(driver: Chrome, api: Api, tmp_path: Path) -> None:
    """Documents of another shape are no status: head, sidebar and tabs say so, and nothing is green."""
    stranger = Answers(200, b'{"state": "ok", "summary": "", "checked_at": ""}')
    with answering(stranger) as port, showing(dashboard_environment(api, tmp_path, REDKEEP_API_URL=f"http://127.0.0.1:{port}"), tmp_path) as url:
        page = Page(driver, url, api)
        page.open()
        said = f"What answers at http://127.0.0.1:{port} is not the API of this Redkeep version."
        assert page.until(lambda: ("The API returned no status", said) == (page.text(".rk-hero h1"), page.text(".rk-hero p")))
        assert page.until(lambda: "Unknown:" in page.text('[data-testid="stSidebar"]'))
        assert page.until(lambda: f"Not shown. {said}" in page.body())
        assert 0 == page.driver.execute_script("return document.querySelectorAll('.rk-ok').length")


def test_a_fault_of_the_page_shows_nothing_of_its_inside(driver: Chrome, api: Api, tmp_path: Path) -> None:
    """Neither what it held nor where: with the dashboard's settings a reader learns that the log has more, and is sent nowhere."""
    faulty = tmp_path / "faulty.py"
    faulty.write_text('import streamlit\nstreamlit.html("<p>begun</p>")\nraise ValueError("what it held")\n')
    with showing({"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, tmp_path, faulty) as url:
        driver.get(url)
        shown = "return document.querySelector('[data-testid=stException]')?.innerText ?? ''"
        page = Page(driver, url, api)
        assert page.until(lambda: "recorded in the logs" in driver.execute_script(shown))
        for inside in ("what it held", "ValueError", "faulty.py", "Traceback", "Google", "ChatGPT"):
            assert inside not in page.body()


def test_without_the_monitors_password_nothing_is_green_that_nobody_watches(redis: Server, driver: Chrome, tmp_path: Path) -> None:
    """Refused logins and servers are unknown, and say why; the page asks its own host for everything it loads."""
    variables = environment(redis, redis_monitor_password=None)
    with serving(variables, tmp_path) as api, showing(dashboard_environment(api, tmp_path), tmp_path) as url:
        page = Page(driver, url, api)
        page.open()
        tiles = "return [...document.querySelectorAll('.rk-tile')].map(e => [e.innerText.split('\\n')[0].trim(), e.className])"
        assert page.until(lambda: len(page.driver.execute_script(tiles)) >= 5)
        found = dict(page.driver.execute_script(tiles))
        assert ("rk-tile rk-unknown",) * 2 == (found["Refused logins"], found["Servers up"])
        assert page.until(lambda: "not monitored" in page.text('[data-testid="stSidebar"]'))
        page.tab("Activity")
        assert page.until(lambda: "Not monitored: the API has no REDIS_MONITOR_PASSWORD." in page.body())
        loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [] == [name for name in loaded if not name.startswith((url, "data:", "blob:"))]
