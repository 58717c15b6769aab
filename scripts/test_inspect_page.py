#!/usr/bin/env python3
"""Test the page of `scrl-inspect --html` in a headless Chromium with Playwright.

    test_inspect_page.py [PAGE] [--bin DIR] [--screenshots DIR]

Without PAGE, one is made from synthetic images with the programs of --bin (target/debug). Checked:
matched boxes light up under the pointer and with the keyboard, filters leave the right pairs, the
colors can be chosen, nothing is wider than a phone, every control has an accessible name, nothing
is requested, and the console stays empty.

Needs the packages of readers_requirements.txt (readers_python.sh prints a Python that has them) and
an installed Chromium, found on the PATH or named in CHROMIUM. Without a Chromium this is printed,
and the exit code is 0.
"""
import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

import synthetic_images

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome"]
# Names that would break a page that did not escape them.
CLASSES = ["cat & dog", "<b>bold</b>", "it's \"quoted\""]
HEIGHTS = {1280: 900, 390: 844}
PHONE = 390
# Roles that need an accessible name.
NAMED = {"button", "checkbox", "combobox", "image", "img", "link", "group", "form"}
# Seconds for everything; a script of the page that never returns has no time limit in Playwright.
LIMIT = 600


class Checks:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def that(self, holds, message):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED: {message}", file=sys.stderr)


class Window:
    """The page in a window of a width; `requests` and `messages` (of the console) are recorded."""

    def __init__(self, browser, url, width):
        size = {"width": width, "height": HEIGHTS[width]}
        context = browser.new_context(viewport=size, is_mobile=width == PHONE, color_scheme="light")
        self.page = context.new_page()
        self.requests, self.messages = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(url)

    def run(self, body, argument=None):
        """The value that a JavaScript function with this body returns."""
        return self.page.evaluate(f"(argument) => {{ {body} }}", argument)


def lit(window):
    """The boxes lit in the first pair with boxes: their numbers, and the number of elements."""
    return window.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        const lit = [...pair.querySelectorAll('.lit')];
        return [[...new Set(lit.map((e) => e.dataset.box))], lit.length];""")


def check_matched_boxes(window, check):
    elements = 1 + window.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        pair.scrollIntoView({block: 'center'});
        return pair.querySelectorAll('figure').length;""")
    # The center of the smallest box: no other lies above it.
    x, y, box = window.run("""
        const pair = document.querySelector('.pair:has(button[data-box])');
        const last = [...pair.querySelector('.view svg').querySelectorAll('.box')].pop();
        const area = last.querySelector('.over').getBoundingClientRect();
        return [area.left + area.width / 2, area.top + area.height / 2, last.dataset.box];""")
    mouse, keyboard = window.page.mouse, window.page.keyboard
    mouse.move(x, y)
    found = lit(window)
    message = f"the pointer lights box {box} in {elements} elements: {found}"
    check.that(found == [[box], elements], message)
    mouse.move(1, 1)
    check.that(lit(window) == [[], 0], "nothing is lit after the pointer has left")
    window.run("document.querySelector('.pair button[data-box]').focus()")
    check.that(lit(window) == [["0"], elements], f"the focus lights a box: {lit(window)}")
    keyboard.press("Tab")
    check.that(lit(window) == [["1"], elements], f"Tab moves to the next box: {lit(window)}")
    keyboard.press("Enter")
    kept = "return document.querySelectorAll('button[aria-pressed=\"true\"]').length"
    check.that(window.run(kept) == 1, "Enter keeps a box lit")
    window.run("document.activeElement.blur()")
    check.that(lit(window) == [["1"], elements], "a kept box stays lit without the focus")
    keyboard.press("Escape")
    check.that(lit(window) == [[], 0] and window.run(kept) == 0, "Escape releases it")


def check_filters(window, check):
    pairs = window.run("""
        return [...document.querySelectorAll('.pair')].map((p) => ({...p.dataset}));""")

    def shown(settings):
        body = """
            for (const [id, value] of Object.entries(argument)) {
                const field = document.getElementById(id);
                if (field) field[typeof value === 'boolean' ? 'checked' : 'value'] = value;
            }
            document.getElementById('pairs').dispatchEvent(new Event('change'));
            const pairs = [...document.querySelectorAll('.pair')];
            return [pairs.filter((p) => p.checkVisibility()).length,
                    document.getElementById('shown').textContent,
                    document.querySelector('.nothing').checkVisibility()];"""
        return window.run(body, settings)

    everything = {"f-epoch": "", "f-class": "", "f-solarized": False, "f-few": False}
    some = pairs[len(pairs) // 2]
    epoch, name = some["epoch"], some["class"]
    cases = [
        ({}, lambda p: True),
        ({"f-epoch": epoch}, lambda p: p["epoch"] == epoch),
        ({"f-class": name}, lambda p: not name or p["class"] == name),
        ({"f-solarized": True}, lambda p: p["solarized"] == "true"),
        ({"f-few": True}, lambda p: p["few"] == "true"),
        ({"f-few": True, "f-solarized": True, "f-epoch": epoch},
         lambda p: p["few"] == p["solarized"] == "true" and p["epoch"] == epoch),
    ]
    for settings, rule in cases:
        expected = sum(map(rule, pairs))
        found, text, nothing = shown({**everything, **settings})
        right = text.startswith(f"{expected} of {len(pairs)}") and nothing == (expected == 0)
        message = f"{settings} leaves {expected} pairs: {found}, {text!r}"
        check.that(found == expected and right, message)
    shown(everything)


def check_colors(window, check):
    color = "return getComputedStyle(document.body).backgroundColor"
    light = window.run(color)
    window.page.emulate_media(color_scheme="dark")
    dark = window.run(color)
    check.that(light != dark, "the colors follow the system's")
    window.run("document.getElementById('theme').click()")
    check.that(window.run(color) == light, "the button changes the colors")
    window.run("document.getElementById('theme').click()")
    check.that(window.run(color) == dark, "the button changes them back")
    window.run("""
        localStorage.removeItem('scrl-theme');
        delete document.documentElement.dataset.theme;""")
    window.page.emulate_media(color_scheme="light")


def check_names(window, check):
    session = window.page.context.new_cdp_session(window.page)
    nameless = [
        node["role"]["value"] for node in session.send("Accessibility.getFullAXTree")["nodes"]
        if not node.get("ignored") and node.get("role", {}).get("value") in NAMED
        and not node.get("name", {}).get("value")
    ]
    check.that(not nameless, f"everything has an accessible name: {nameless}")
    repeated = window.run("""
        const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i);""")
    check.that(not repeated, f"no id is used twice: {repeated}")


def check_silence(window, check):
    files = sum(url.startswith("file:") for url in window.requests)
    others = [url[:80] for url in window.requests if not url.startswith(("file:", "data:"))]
    check.that(not others and files <= 1, f"nothing is requested: {others}")
    check.that(not window.messages, f"the console stays empty: {window.messages}")


def take_screenshots(window, folder):
    folder.mkdir(parents=True, exist_ok=True)
    width = window.page.viewport_size["width"]
    for scheme in ["light", "dark"]:
        window.page.emulate_media(color_scheme=scheme)
        for place, code in [
            ("top", "scrollTo(0, 0)"),
            ("pairs", "document.getElementById('pairs').scrollIntoView()"),
            ("lit", "const pair = document.querySelector('.pair:has(button[data-box])');"
                    "pair.scrollIntoView();"
                    "pair.querySelectorAll('button[data-box]')[2]?.focus({preventScroll: true})"),
        ]:
            window.run(code)
            window.page.wait_for_timeout(300)
            window.page.screenshot(path=folder / f"page-{width}-{scheme}-{place}.png")
            window.run("document.activeElement.blur()")


def make_page(programs, folder):
    images, shards, page = folder / "images", folder / "shards", folder / "page.html"
    synthetic_images.write_class_folders(images, 24, CLASSES)
    options = ["--epochs", "3", "--size", "96", "--min-box", "24", "--quiet"]
    subprocess.run([programs / "scrl-prep", *options, images, shards], check=True)
    subprocess.run([programs / "scrl-inspect", "--quiet", "--html", page, shards], check=True)
    return page


def check_page(browser, url, screenshots):
    check = Checks()
    for width in HEIGHTS:
        window = Window(browser, url, width)
        if width != PHONE:
            check_matched_boxes(window, check)
            check_filters(window, check)
            check_colors(window, check)
            check_names(window, check)
        widest = window.run("return document.documentElement.scrollWidth")
        check.that(widest <= width, f"nothing is wider than {width} px: {widest}")
        if screenshots:
            take_screenshots(window, screenshots)
        check_silence(window, check)
    print(f"test_inspect_page: {check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    debug = pathlib.Path(__file__).parent.parent / "target/debug"
    arguments.add_argument("page", nargs="?", type=pathlib.Path, metavar="PAGE")
    arguments.add_argument("--bin", type=pathlib.Path, default=debug)
    arguments.add_argument("--screenshots", type=pathlib.Path, metavar="DIR")
    given = arguments.parse_args()
    programs = map(shutil.which, [os.environ.get("CHROMIUM", ""), *BROWSERS])
    program = next(filter(None, programs), None)
    if program is None:
        print("test_inspect_page: skipped, no Chromium here (Debian: apt-get install chromium; "
              "or set CHROMIUM)")
        return 0
    signal.alarm(LIMIT)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = given.page or make_page(given.bin, pathlib.Path(folder))
        with playwright.chromium.launch(executable_path=program) as browser:
            return check_page(browser, page.resolve().as_uri(), given.screenshots)


if __name__ == "__main__":
    sys.exit(main())
