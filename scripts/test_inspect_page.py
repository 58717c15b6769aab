#!/usr/bin/env python3
"""Use the page that `scrl-inspect --html` writes in a headless Chromium, as a person would.

    test_inspect_page.py [PAGE] [--bin DIR] [--screenshots DIR]

Without PAGE one is made from drawn photos with the programs of --bin (target/debug). Checked are: twins light up under the
pointer and with the keyboard, filters leave the right pairs, the colors can be chosen, nothing is wider than a phone,
everything has a name for those who do not see it, nothing is requested from anywhere, and the console stays empty. Needs no
packages; without a Chromium it says so and ends well.
"""
import argparse
import base64
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import drawn_photos

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
# Names that would break a page which did not escape them.
CLASSES = ["cat & dog", "<b>bold</b>", "it's \"quoted\""]
WIDTHS = {1280: 900, 390: 844}
# Seconds until the page is there, and until everything is done.
PATIENCE, LIMIT = 60, 600


class Browser:
    """A Chromium that is spoken to through a pair of pipes."""

    def __init__(self, program, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        def connect():
            # Either may already be 3 or 4: both move out of the way first.
            a, b = os.dup(to_browser), os.dup(from_browser)
            low, high = os.dup2(a, 63), os.dup2(b, 64)
            os.dup2(low, 3)
            os.dup2(high, 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
                   f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking"]
        self.process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        close_fds=False, preexec_fn=connect)
        os.close(to_browser)
        os.close(from_browser)
        self.rest, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def receive(self):
        while b"\0" not in self.rest:
            data = os.read(self.read_end, 1 << 20)
            if not data:
                raise SystemExit("test_inspect_page: the browser ended unexpectedly")
            self.rest += data
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"test_inspect_page: {method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def run(self, code):
        """The value of some JavaScript, a function's body."""
        result = self.call("Runtime.evaluate", expression=f"(() => {{ {code} }})()", returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"test_inspect_page: {code}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def point(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self):
        self.process.kill()
        self.process.wait()


def out_of_time(*_):
    raise SystemExit(f"test_inspect_page: the browser has not answered within {LIMIT} s")


class Checks:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def that(self, holds, what):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED: {what}", file=sys.stderr)


def show(browser, width, scheme):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=WIDTHS[width], deviceScaleFactor=1,
                 mobile=width < 500)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def lit(browser):
    """What is lit in the first pair with boxes: the numbers, and in how many places."""
    return browser.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        const lit = [...pair.querySelectorAll('.lit')];
        return [[...new Set(lit.map((e) => e.dataset.box))], lit.length];""")


def check_twins(browser, check):
    pictures = browser.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        pair.scrollIntoView({block: 'center'});
        return pair.querySelectorAll('figure').length;""")
    places = pictures + 1
    # The middle of the smallest box: no other lies above it.
    place = browser.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        const last = [...pair.querySelector('.view svg').querySelectorAll('.box')].pop();
        const area = last.querySelector('.over').getBoundingClientRect();
        return [area.left + area.width / 2, area.top + area.height / 2, last.dataset.box];""")
    browser.point(place[0], place[1])
    check.that(lit(browser) == [[place[2]], places], f"the pointer lights box {place[2]} in {places} places: {lit(browser)}")
    browser.point(1, 1)
    check.that(lit(browser) == [[], 0], "nothing is lit when the pointer has left")
    browser.run("document.querySelector('.pair button[data-box]').focus()")
    check.that(lit(browser) == [["0"], places], f"the focus lights a box: {lit(browser)}")
    browser.press("Tab", 9)
    check.that(lit(browser) == [["1"], places], f"the Tab key goes to the next box: {lit(browser)}")
    browser.press("Enter", 13, "\r")
    kept = "return document.querySelectorAll('button[aria-pressed=\"true\"]').length"
    check.that(browser.run(kept) == 1, "the Enter key keeps a box lit")
    browser.run("document.activeElement.blur()")
    check.that(lit(browser) == [["1"], places], "a kept box stays lit without the focus")
    browser.press("Escape", 27)
    check.that(lit(browser) == [[], 0] and browser.run(kept) == 0, "the Escape key lets it go")


def check_filters(browser, check):
    pairs = browser.run("return [...document.querySelectorAll('.pair')].map((p) => ({...p.dataset}))")

    def shown(settings):
        code = "".join(
            f"{{ const f = document.getElementById({json.dumps(name)}); if (f) f.{'checked' if isinstance(value, bool) else 'value'}"
            f" = {json.dumps(value)}; }}"
            for name, value in settings.items()
        )
        return browser.run(f"""{code}
            document.getElementById('pairs').dispatchEvent(new Event('change'));
            const visible = [...document.querySelectorAll('.pair')].filter((p) => p.checkVisibility());
            return [visible.length, document.getElementById('shown').textContent,
                    document.querySelector('.nothing').checkVisibility()];""")

    everything = {"f-epoch": "", "f-class": "", "f-solarized": False, "f-few": False}
    some = pairs[len(pairs) // 2]
    cases = [
        ({}, lambda p: True),
        ({"f-epoch": some["epoch"]}, lambda p: p["epoch"] == some["epoch"]),
        ({"f-class": some["class"]}, lambda p: not some["class"] or p["class"] == some["class"]),
        ({"f-solarized": True}, lambda p: p["solarized"] == "true"),
        ({"f-few": True}, lambda p: p["few"] == "true"),
        ({"f-few": True, "f-solarized": True, "f-epoch": some["epoch"]},
         lambda p: p["few"] == "true" and p["solarized"] == "true" and p["epoch"] == some["epoch"]),
    ]
    for settings, rule in cases:
        expected = sum(map(rule, pairs))
        found, told, nothing = shown({**everything, **settings})
        check.that(found == expected and told.startswith(f"{expected} of {len(pairs)}") and nothing == (expected == 0),
                   f"{settings} leaves {expected} pairs: {found}, {told!r}")
    shown(everything)


def check_colors(browser, check):
    color = "return getComputedStyle(document.body).backgroundColor"
    show(browser, 1280, "light")
    light = browser.run(color)
    show(browser, 1280, "dark")
    dark = browser.run(color)
    check.that(light != dark, "the colors follow the system's")
    browser.run("document.getElementById('theme').click()")
    check.that(browser.run(color) == light, "the button changes the colors")
    browser.run("document.getElementById('theme').click()")
    check.that(browser.run(color) == dark, "and back")
    browser.run("localStorage.removeItem('scrl-theme'); delete document.documentElement.dataset.theme")


def check_names(browser, check):
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "checkbox", "combobox", "image", "img", "link", "group", "form"}
    nameless = [
        node["role"]["value"] for node in tree
        if not node.get("ignored") and node.get("role", {}).get("value") in named and not node.get("name", {}).get("value")
    ]
    check.that(not nameless, f"everything has a name: {nameless}")
    doubled = browser.run("""
        const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i);""")
    check.that(not doubled, f"no name of an element stands twice: {doubled}")


def check_silence(browser, check):
    requests = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    foreign = [url[:80] for url in requests if not url.startswith(("file:", "data:"))]
    check.that(not foreign and sum(url.startswith("file:") for url in requests) <= 1, f"nothing is requested: {foreign}")
    said = [e["params"] for e in browser.events
            if e.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
    check.that(not said, f"the console stays empty: {said}")


def take_screenshots(browser, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for scheme in ["light", "dark"]:
            show(browser, width, scheme)
            for place, code in [
                ("top", "scrollTo(0, 0)"),
                ("pairs", "document.getElementById('pairs').scrollIntoView()"),
                ("lit", "document.querySelector('.pair:has(button[data-box])').scrollIntoView(); "
                        "document.querySelectorAll('.pair button[data-box]')[2].focus({preventScroll: true})"),
            ]:
                browser.run(code)
                time.sleep(0.3)
                data = browser.call("Page.captureScreenshot", format="png")["data"]
                (folder / f"page-{width}-{scheme}-{place}.png").write_bytes(base64.b64decode(data))
                browser.run("document.activeElement.blur()")


def make_page(programs, folder):
    photos, shards, page = folder / "photos", folder / "shards", folder / "page.html"
    drawn_photos.draw(photos, 24, CLASSES)
    prep = ["--epochs", "3", "--size", "96", "--min-box", "24", "--quiet", str(photos), str(shards)]
    subprocess.run([programs / "scrl-prep", *prep], check=True)
    subprocess.run([programs / "scrl-inspect", "--quiet", "--html", page, shards], check=True)
    return page


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("page", nargs="?", type=pathlib.Path, metavar="PAGE")
    arguments.add_argument("--bin", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "target/debug")
    arguments.add_argument("--screenshots", type=pathlib.Path, metavar="DIR")
    given = arguments.parse_args()
    program = next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", ""), *BROWSERS])), None)
    if program is None:
        print("test_inspect_page: skipped, no Chromium here (Debian: apt-get install chromium; or set CHROMIUM)")
        return 0
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(LIMIT)
    check = Checks()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = given.page or make_page(given.bin, pathlib.Path(folder))
        browser = Browser(program, f"{folder}/profile")
        try:
            for domain in ["Network", "Log", "Runtime", "Page", "Accessibility"]:
                browser.call(f"{domain}.enable")
            show(browser, 1280, "light")
            browser.call("Page.navigate", url=page.resolve().as_uri())
            end = time.monotonic() + PATIENCE
            while browser.run("return document.readyState") != "complete":
                check.that(time.monotonic() < end, "the page is there in time")
                time.sleep(0.05)
            check_twins(browser, check)
            check_filters(browser, check)
            check_colors(browser, check)
            check_names(browser, check)
            for width in WIDTHS:
                show(browser, width, "light")
                widest = browser.run("return document.documentElement.scrollWidth")
                check.that(widest <= width, f"nothing is wider than {width} px: {widest}")
            if given.screenshots:
                take_screenshots(browser, given.screenshots)
            check_silence(browser, check)
        finally:
            browser.close()
    print(f"test_inspect_page: {check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
