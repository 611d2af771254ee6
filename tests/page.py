"""Tests the live page in a browser: its contents, its look at both widths in light and dark, and its access rights.

Run by scripts/page, which starts a gateway and a worker. SCREENSHOTS=<folder> keeps pictures.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

DAM, ADMIN = os.environ["DAM_URL"], os.environ["DAM_ADMIN_URL"]
READ, WRITE = "read-secret", "admin-secret"
# Far longer than anything here takes, even on a busy machine.
PATIENCE = 20_000
WIDTHS = {"narrow": 400, "wide": 1600}


def ask(caller):
    body = {"model": "sim", "stream": True, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"content-type": "application/json", "x-user-id": caller}
    request = urllib.request.Request(f"{DAM}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
    except urllib.error.HTTPError as refused:
        refused.read()


@contextmanager
def load():
    """Load of several callers: one far above its quota, and one whose name is markup."""
    over = threading.Event()

    def keep_asking(caller, pause):
        while not over.wait(pause):
            ask(caller)

    callers = [("greedy", 0.02), ("modest", 0.7), ("<img src=x onerror=alert(1)>", 0.8)]
    threads = [threading.Thread(target=keep_asking, args=caller) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class Visit:
    """A page, and the errors and warnings that it caused."""

    def __init__(self, browser, secret=READ, **looks):
        credentials = {"username": "me", "password": secret}
        self.context = browser.new_context(http_credentials=credentials, **looks)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self.hear)
        self.page.on("request", self.check_target)

    def hear(self, message):
        # Tests cause 403 on purpose, with a token that may not write.
        if message.type in ("error", "warning") and "403" not in message.text:
            self.faults.append(f"console: {message.text}")

    def check_target(self, request):
        if not request.url.startswith(ADMIN):
            self.faults.append(f"outside: {request.url}")

    def open(self):
        self.page.goto(ADMIN)
        expect(self.page.locator("#said")).to_have_text("Live, updated every second.", timeout=PATIENCE)
        return self.page

    def forgive(self, *faults):
        """Removes errors that the browser reports for an outage made by the test."""
        self.faults = [fault for fault in self.faults if not any(known in fault for known in faults)]

    def close(self):
        self.context.close()
        assert not self.faults, self.faults


def shows_what_happens(browser):
    visit = Visit(browser, viewport={"width": 1600, "height": 1000})
    page = visit.open()
    with load():
        within = {"timeout": PATIENCE}
        expect(page.locator("#callers")).to_contain_text("hdr:greedy", **within)
        expect(page.locator("#callers")).to_contain_text("hdr:<img src=x onerror=alert(1)>", **within)
        expect(page.locator("#refused")).to_contain_text("rate_limited", **within)
        expect(page.locator("#rules tr", has_text="caller-burst")).to_contain_text("100 %", **within)
        expect(page.locator("#rules")).to_contain_text("watched (observes)", **within)
        expect(page.locator("#pools")).to_contain_text("blue is active", **within)
        expect(page.locator("#pools tr", has_text="w-blue")).to_contain_text("green", **within)
        expect(page.locator("#events")).to_contain_text("the gateway started", **within)
        expect(page.locator("#shared")).to_contain_text("not used", **within)
        # A value that the page asks for under a name that the gateway does not know.
        expect(page.locator("body")).not_to_contain_text("undefined")
        # The overall state is one sentence, and the legend has values without a pointer.
        expect(page.locator("#verdict")).to_have_text(re.compile(r"^[●▲■] .+\.$"), **within)
        expect(page.locator("#level .u-legend")).to_contain_text(re.compile(r"Offered:?\s*\d+\.\d"), **within)
        expect(page.locator("#room .u-legend")).to_contain_text(re.compile(r"Limit:?\s*\d+"), **within)
        expect(page.locator("#room-told")).to_have_text(re.compile(r"Now: \d+ of \d+ in flight, \d+ waiting\."), **within)
        expect(page.locator("#ttft-told")).to_have_text(re.compile(r"half of the streams began within \d+ ms"), **within)
        # The charts contain more than their axes.
        for chart in ("#level", "#room", "#ttft"):
            ink = """(canvas) => {
                const colours = new Set();
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                for (let at = 0; at < data.length; at += 4) colours.add(data.slice(at, at + 4).join());
                return colours.size;
            }"""
            assert page.locator(f"{chart} canvas").evaluate(ink) > 20, chart
    visit.close()


def looks(browser, folder):
    with load():
        # Screenshots need a few seconds of data.
        time.sleep(8)
        for name, width in WIDTHS.items():
            for scheme in ("light", "dark"):
                visit = Visit(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
                page = visit.open()
                page.wait_for_function("document.querySelectorAll('#callers tbody tr').length > 2")
                wider = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
                assert wider <= 0, f"{name}: the page is {wider} px wider than the window"
                tight = page.evaluate("[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.textContent)")
                assert not tight, f"{name}: tables are wider than their place: {tight}"
                ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
                assert (brightness < 100) == (scheme == "dark"), (scheme, ground)
                # Accessibility errors, contrast included.
                faults = Axe().run(page).response["violations"]
                assert not faults, [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in faults]
                if folder:
                    page.screenshot(path=os.path.join(folder, f"page-{name}-{scheme}.png"), full_page=True)
                visit.close()


def switches_by_keyboard_with_the_admin_token(browser):
    visit = Visit(browser, viewport={"width": 1000, "height": 900})
    page = visit.open()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    select, button = page.locator("form.switch select.colour"), page.locator("form.switch button")
    for _ in range(30):
        page.keyboard.press("Tab")
        if select.evaluate("(element) => element === document.activeElement"):
            break
    expect(select).to_be_focused()
    page.keyboard.press("g")
    # Between them is the choice of a trial.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    # The update each second must not take the focus away.
    page.wait_for_timeout(2500)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    # This browser's token may only read.
    expect(page.locator("#ask")).to_be_visible()
    page.keyboard.type(READ)
    page.keyboard.press("Enter")
    expect(page.locator("#ask-why")).to_have_text("This token cannot make changes. Enter the admin token.")
    page.keyboard.type(WRITE)
    page.keyboard.press("Enter")
    expect(page.locator("#pools .switched")).to_have_text("green is active at every gateway.")
    expect(page.locator("#events")).to_contain_text("pool default: active colour is now green")
    # The page asks for the token only once.
    select.select_option("blue")
    button.click()
    expect(page.locator("#pools .switched")).to_have_text("blue is active at every gateway.")
    visit.close()


def write(path, body):
    headers = {"content-type": "application/json", "authorization": f"Bearer {WRITE}"}
    request = urllib.request.Request(ADMIN + path, json.dumps(body).encode(), headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def follows_a_switch_made_elsewhere(browser):
    visit = Visit(browser, viewport={"width": 1000, "height": 900})
    page = visit.open()
    select, about = page.locator("form.switch select.colour"), page.locator("#pools .about")
    expect(select).to_have_value("blue")
    write("/api/v1/pools/default/active", {"colour": "green"})
    expect(select).to_have_value("green", timeout=PATIENCE)
    # The choice does not change while it has the focus.
    select.focus()
    write("/api/v1/pools/default/active", {"colour": "blue"})
    expect(about).to_contain_text("blue is active", timeout=PATIENCE)
    expect(select).to_have_value("green")
    page.locator("form.switch button").focus()
    expect(select).to_have_value("blue", timeout=PATIENCE)
    visit.close()


def shows_a_canary_and_ends_it(browser):
    visit = Visit(browser, WRITE, viewport={"width": 1000, "height": 900})
    page = visit.open()
    page.locator("form.switch select.colour").select_option("green")
    page.locator("form.switch select.share").select_option("5%")
    page.locator("form.switch button").click()
    told, trial, end = page.locator("#pools .switched"), page.locator("#pools .trial p"), page.locator("#pools .trial button")
    expect(told).to_have_text("The canary has begun.")
    expect(trial).to_contain_text("Canary: green gets 5 % beside blue", timeout=PATIENCE)
    expect(page.locator("#pools .about")).to_contain_text("blue is active")
    expect(page.locator("#events")).to_contain_text("a canary began: green gets 5 % beside blue")
    # A second switch is refused.
    page.locator("form.switch select.share").select_option("")
    page.locator("form.switch button").click()
    expect(told).to_contain_text("Not switched: a canary of the pool is under way")
    end.click()
    expect(told).to_have_text("The canary was ended; the old side gets everything.")
    expect(trial).to_contain_text("went back to blue", timeout=PATIENCE)
    expect(end).to_be_hidden()
    page.locator("form.switch select.colour").select_option("blue")
    visit.forgive("409")
    visit.close()


def says_what_became_of_maintenance_and_where(browser):
    visit = Visit(browser, WRITE, viewport={"width": 1000, "height": 900})
    page = visit.open()
    button, told, said = page.locator("#maintenance"), page.locator("#maintenance-told"), page.locator("#said")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    expect(button).to_have_text("Close for maintenance, at this gateway only")
    page.route("**/api/v1/maintenance", lambda route: route.fulfill(status=500, json={"error": {"message": "no luck"}}))
    button.click()
    expect(told).to_have_text("Nothing changed: no luck")
    # Updates must not remove the message.
    page.wait_for_timeout(2500)
    expect(told).to_have_text("Nothing changed: no luck")
    expect(said).to_have_text("Live, updated every second.")
    page.unroute("**/api/v1/maintenance")
    # Another token does not help here, so the page does not ask for one.
    foreign = {"error": {"code": "foreign_origin", "message": "not from here"}}
    page.route("**/api/v1/maintenance", lambda route: route.fulfill(status=403, json=foreign))
    button.click()
    expect(told).to_have_text("Nothing changed: not from here")
    expect(page.locator("#ask")).to_be_hidden()
    page.unroute("**/api/v1/maintenance")

    button.click()
    expect(told).to_have_text(re.compile(r"Closed at [\d:]+, at this gateway only\."), timeout=PATIENCE)
    expect(said).to_contain_text("Closed for maintenance: this gateway refuses new requests.", timeout=PATIENCE)
    button.click()
    expect(told).to_have_text(re.compile(r"Opened at [\d:]+"), timeout=PATIENCE)
    expect(said).to_have_text("Live, updated every second.", timeout=PATIENCE)
    assert len(asked) == 3 and all("at this gateway only" in question for question in asked), asked
    visit.forgive("500")
    visit.close()


def shows_whose_clients_left(browser):
    visit = Visit(browser, viewport={"width": 1600, "height": 1000})
    page = visit.open()
    left = page.locator("#now div", has_text="Left /s").locator("dd")
    expect(left).to_have_text("0")
    body = {"model": "sim", "stream": True, "max_tokens": 2000, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"content-type": "application/json", "x-user-id": "impatient"}
    request = urllib.request.Request(f"{DAM}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.readline()
    expect(left).not_to_have_text("0", timeout=PATIENCE)
    expect(page.locator("#level-told")).not_to_contain_text(" 0 left")
    expect(page.locator("#level .u-legend")).to_contain_text("Left")
    visit.close()


def judges(browser):
    visit = Visit(browser)
    page = visit.open()
    worker = {"id": "w1", "eligible": True, "leaving": False, "light": "green", "why": None}
    scene = {"phase": "running", "maintenance": False, "ttft_slo_ms": 1000, "ttft_buckets": [0.5, 1, 2], "redis": True, "feed": None, "discovery": []}
    second = {"offered": 10, "admitted": 10, "failed": 0, "refused": {}, "ttft": [10, 0, 0, 0], "in_flight": 3, "limit": 8, "queue": {}}

    def judged(what, workers=({},), **more):
        pools = [{"name": "chat", "workers": [worker | one for one in workers]}]
        told = {"scene": scene | {"pools": pools} | what, "points": [second | more] * 10}
        return page.evaluate('(told) => import("/verdict.js").then(({ verdict }) => verdict(told.scene, told.points))', told)

    red = {"light": "red", "why": "it cannot be reached"}
    for arguments, more, level, words in [
        (({},), {}, "well", "All is well."),
        (({},), {"offered": 0}, "well", "no requests"),
        (({},), {"refused": {"rate_limited": 5}}, "well", "because of their own limits"),
        (({"maintenance": True},), {}, "bad", "Closed for maintenance"),
        (({"phase": "draining"},), {}, "bad", "draining"),
        (({}, [red]), {}, "bad", "No worker of pool chat can serve (w1: it cannot be reached)."),
        (({}, []), {}, "bad", "no eligible worker"),
        (({}, [red, {}]), {}, "strained", "1 of 2 workers is red (w1: it cannot be reached)."),
        (({},), {"failed": 2}, "bad", "Workers fail 20 %"),
        (({},), {"ttft": [8, 1, 1, 0]}, "bad", "10 % of the streams begin later than the TTFT SLO of 1 s."),
        (({},), {"ttft": [5, 5, 0, 0]}, "well", "All is well."),
        (({},), {"refused": {"overloaded": 4, "rate_limited": 3}}, "strained", "40 % of the requests are refused for lack of capacity, mostly overloaded"),
        (({"redis": False},), {}, "strained", "Redis does not answer"),
        (({},), {"in_flight": 8, "queue": {"batch": 2}}, "strained", "8 of 8 in flight, and 2 wait"),
    ]:
        found, sentence = judged(*arguments, **more)
        assert found == level and words in sentence, (arguments, more, found, sentence)
    visit.close()


def says_why_a_light_is_not_green(browser):
    visit = Visit(browser, viewport={"width": 1000, "height": 900})
    page = visit.open()
    body = {"model": "sim", "stream": True, "max_tokens": 4000, "ignore_eos": True, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"content-type": "application/json"}
    # As many streams as the worker has slots, each of a different caller.
    streams = []
    try:
        for caller in range(4):
            request = urllib.request.Request(f"{DAM}/v1/chat/completions", json.dumps(body).encode(), headers | {"x-user-id": f"full-{caller}"})
            streams.append(urllib.request.urlopen(request, timeout=30))
        row = page.locator("#pools tr", has_text="w-blue")
        expect(row).to_contain_text("yellow", timeout=PATIENCE)
        expect(row).to_contain_text(re.compile(r"full: \d+ of \d+ in flight"))
    finally:
        for stream in streams:
            stream.close()
    visit.close()


def reckons_with_clocks_and_dates(browser):
    visit = Visit(browser, timezone_id="Asia/Tokyo")
    page = visit.open()
    expect(page.locator("#zone")).to_have_text("Asia/Tokyo, GMT+09:00", timeout=PATIENCE)

    def reckon(what):
        return page.evaluate(f'import("/times.js").then((times) => {what})')

    # The clock was set back by 8 s before the third second.
    points = "[10000, 11000, 4000, 5000].map((at_ms) => ({ at_ms, seconds: 1 }))"
    assert reckon(f"times.times({points})") == [2, 3, 4, 5]
    assert reckon("times.times([{ at_ms: 1000, seconds: 1 }, { at_ms: 9000, seconds: 1 }])") == [1, 9]
    assert reckon(f"times.taken({points}.slice(0, 2), {{ points: {points}.slice(2) }}).length") == 4
    assert reckon("times.taken([1, 2], { whole: true, points: [3] })") == [3]
    assert reckon("times.taken(Array(300).fill(0), { points: [1] }).length") == 300
    # Midnight is in the browser's time zone: 16:02:03 UTC is the next day in Tokyo.
    at = 'new Date("2026-03-01T16:02:03Z")'
    assert reckon(f'times.stamp({at}, new Date("2026-03-01T15:00:00Z"))') == "01:02:03"
    assert reckon(f'times.stamp({at}, new Date("2026-03-01T14:59:59Z"))') == "2026-03-02 01:02:03"
    visit.close()


# Records the event sources of a page, to check that at most one is open.
COUNT_SOURCES = """window.sources = [];
window.EventSource = class extends EventSource {
    constructor(path) {
        super(path);
        window.sources.push(this);
    }
};"""


def notices_that_the_gateway_is_gone(browser):
    gateway = int(os.environ["DAM_PID"])
    with open(f"/proc/{gateway}/cmdline", encoding="utf-8") as line:
        command = line.read().split("\0")[:-1]
    visit = Visit(browser, viewport={"width": 400, "height": 900})
    visit.page.add_init_script(COUNT_SOURCES)
    page = visit.open()
    said, silent, main = page.locator("#said"), page.locator("#silent"), page.locator("main")

    def is_old():
        expect(said).to_have_text("The gateway does not answer. The data is stale. Trying again…", timeout=PATIENCE)
        expect(silent).to_have_text(re.compile(r"No update for \d+ s\."))
        expect(main).to_have_class("old")
        first = silent.inner_text()
        expect(silent).not_to_have_text(first, timeout=PATIENCE)
        # It is visible at every scroll position.
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(said).to_be_in_viewport()

    def is_live():
        expect(said).to_have_text("Live, updated every second.", timeout=PATIENCE)
        expect(silent).to_have_text("")
        expect(main).not_to_have_class("old")
        assert page.evaluate("sources.filter((source) => source.readyState !== EventSource.CLOSED).length") == 1

    # A stopped process: its sockets stay open and accept connections, but nothing answers.
    os.kill(gateway, signal.SIGSTOP)
    try:
        is_old()
        # New tries in the meantime do not count as an answer.
        page.wait_for_timeout(8000)
        expect(main).to_have_class("old")
    finally:
        os.kill(gateway, signal.SIGCONT)
    is_live()
    os.kill(gateway, signal.SIGKILL)
    is_old()
    again = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        is_live()
        expect(page.locator("#events p")).to_have_count(1)
        visit.forgive("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED_ENCODING")
        visit.close()
    finally:
        again.terminate()
        again.wait(timeout=30)


def goes_on_after_the_line_was_cut(browser):
    visit = Visit(browser)
    page = visit.open()
    page.route("**/api/v1/events", lambda route: route.fulfill(status=503, body="full"))
    page.reload()
    expect(page.locator("#said")).to_have_text(re.compile("too many viewers.*The data is stale"))
    page.unroute("**/api/v1/events")
    expect(page.locator("#said")).to_have_text("Live, updated every second.")
    expect(page.locator("main")).not_to_have_class("old")
    visit.forgive("503")
    visit.close()


def strangers_see_nothing():
    for path in ("/", "/page.js", "/api/v1/events"):
        try:
            urllib.request.urlopen(ADMIN + path, timeout=10)
            raise AssertionError(f"{path} is open")
        except urllib.error.HTTPError as refused:
            assert refused.code == 401, (path, refused.code)


def main():
    folder = os.environ.get("SCREENSHOTS")
    strangers_see_nothing()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        shows_what_happens(browser)
        looks(browser, folder)
        switches_by_keyboard_with_the_admin_token(browser)
        follows_a_switch_made_elsewhere(browser)
        shows_a_canary_and_ends_it(browser)
        says_what_became_of_maintenance_and_where(browser)
        shows_whose_clients_left(browser)
        judges(browser)
        says_why_a_light_is_not_green(browser)
        reckons_with_clocks_and_dates(browser)
        goes_on_after_the_line_was_cut(browser)
        # Last, because it leaves no gateway.
        notices_that_the_gateway_is_gone(browser)
        browser.close()
    print("the page: all well")


if __name__ == "__main__":
    main()
