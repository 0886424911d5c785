#!/usr/bin/env python3
"""Approves and denies logins on the practice provider's page in a real Chromium.

    tests/browser/approve.py [--binary target/debug/qwenauth] [--screenshot docs/images/approval.png]

Needs Debian's `chromium` and `chromium-driver` and nothing beyond the standard library: chromedriver speaks the W3C
WebDriver protocol, which is JSON over HTTP. The script starts itself again inside `qwenauth sandbox --no-approve`, where
`qwenauth` is the program under test. Every wait has an end, and only processes started here are ended.
"""

import argparse
import base64
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

PATIENCE = 30  # seconds for one step; a cold Chromium needs a few
ALL = 180  # seconds for everything
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the W3C's name for a reference to an element
TAB, ENTER = "\ue004", "\ue007"

# Text and background colours of everything that shows text, resolved through transparent ancestors.
CONTRAST = """
const parse = colour => colour.match(/[\\d.]+/g).map(Number);
const luminance = colour => {
  const [red, green, blue] = parse(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const background = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if ((parse(colour)[3] ?? 1) > 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
const shown = [...document.body.querySelectorAll("*")].filter(element =>
  [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
return shown.map(element => {
  const pair = [getComputedStyle(element).color, background(element)].map(luminance).sort((a, b) => b - a);
  return [element.tagName + "." + element.className, (pair[0] + 0.05) / (pair[1] + 0.05)];
});
"""


def check(condition, what):
    if not condition:
        raise AssertionError(what)
    print(f"ok: {what}", flush=True)


def until(what, answer, seconds=PATIENCE):
    """The first answer that is true; for what changes in another process without telling."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := answer():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"no {what} within {seconds} seconds")


class Lines:
    """Lines of a pipe, with a limit on the wait for each."""

    def __init__(self, pipe):
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(pipe,), daemon=True).start()

    def read(self, pipe):
        for line in pipe:
            self.lines.put(line)
        self.lines.put(None)

    def next(self, seconds=PATIENCE):
        return self.lines.get(timeout=seconds)


class Browser:
    """Chromium through chromedriver, both in a process group of their own."""

    def __init__(self, directory):
        environment = dict(os.environ, HOME=directory, XDG_CONFIG_HOME=directory, XDG_CACHE_HOME=directory)
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            self.begin(directory)
        except BaseException:
            self.close()
            raise

    def begin(self, directory):
        lines = Lines(self.driver.stdout)
        while not (port := re.search(r"started successfully on port (\d+)", lines.next() or "chromedriver ended")):
            pass
        self.base = f"http://127.0.0.1:{port[1]}/session"
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={directory}/profile",
        ]
        options = {"args": arguments}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += "/" + session["sessionId"]

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        # Never through a proxy: chromedriver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:500]}") from None

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def script(self, text):
        return self.ask("POST", "/execute/sync", {"script": text, "args": []})

    def texts(self, selector):
        return self.script(f"return [...document.querySelectorAll({json.dumps(selector)})].map(each => each.innerText)")

    def find(self, selector):
        return self.ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def press(self, key):
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def focused(self):
        return self.script("return document.activeElement.innerText || document.activeElement.tagName")

    def devtools(self, command, **parameters):
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width, height):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=True)

    def scheme(self, name):
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def complaints(self):
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]

    def wait_for_heading(self, text):
        until(f"heading `{text}`", lambda: text in self.texts("h1"))

    def close(self):
        try:
            self.ask("DELETE", "")
        except Exception:  # whatever it is, the group goes now
            pass
        end_group(self.driver)


def end_group(process):
    """Ends a process that leads its own group, and its children with it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=5)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(timeout=5)


class Login:
    """`qwenauth login --json`, and its events."""

    def __init__(self, *options):
        command = ["qwenauth", "login", "--json", "--no-browser", *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.events = Lines(self.process.stdout)

    def event(self):
        line = self.events.next()
        if line is None:
            raise EOFError("login ended without the event that was waited for")
        return json.loads(line)

    def exit_code(self):
        return self.process.wait(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            end_group(self.process)


def status():
    answer = subprocess.run(
        ["qwenauth", "status", "--json"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )
    return json.loads(answer.stdout)["profiles"][0]["state"]


def check_page(browser, code, screenshot):
    check(browser.texts(".code") == [code], "the page shows the code of the terminal")
    check(browser.script("return document.documentElement.lang") == "en", "the page names its language")
    check(len(browser.texts("h1")) == 1, "the page has one heading")
    check(any("qwenauth" in text for text in browser.texts("dd")), "the page names the program that asks")
    for width in (320, 360, 1024):
        browser.size(width, 740)
        widths = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
        check(widths[0] <= widths[1] == width, f"nothing scrolls sideways at {width} pixels")
        if width <= 360:
            heights = browser.script("return [...document.querySelectorAll('button')].map(each => each.offsetHeight)")
            check(len(heights) == 2 and min(heights) >= 44, f"both buttons are big enough for a thumb at {width} pixels")
    for scheme in ("dark", "light"):
        browser.scheme(scheme)
        lowest = min(browser.script(CONTRAST), key=lambda pair: pair[1])
        check(lowest[1] >= 4.5, f"text can be read in the {scheme} scheme: lowest contrast {lowest[1]:.1f} at {lowest[0]}")
    if screenshot:
        browser.size(480, 690)
        with open(screenshot, "wb") as file:
            file.write(base64.b64decode(browser.ask("GET", "/screenshot")))


def approve(browser, screenshot):
    with Login() as login:
        asked = login.event()
        check(asked["event"] == "device_code", "login says where to approve")
        browser.open(asked["verification_uri_complete"])
        check_page(browser, asked["user_code"], screenshot)
        reached = []
        while "Approve" not in reached and len(reached) < 10:
            browser.press(TAB)
            reached.append(browser.focused())
        check("Approve" in reached, "the keyboard reaches the button to approve")
        outline = browser.script("return getComputedStyle(document.activeElement).outlineStyle")
        check(outline == "solid", "the focus can be seen")
        browser.press(TAB)
        check(browser.focused() == "Deny", "the keyboard reaches the button to deny")
        browser.ask("POST", f"/element/{browser.find('button[value=approve]')}/click", {})
        browser.wait_for_heading("Approved")
        check(login.event()["event"] == "logged_in", "the approval completes the login")
        check(login.exit_code() == 0, "login ends with 0")
    check(status() == "valid", "status says valid")
    browser.ask("POST", "/refresh", {})
    check(browser.texts("h1") == ["Approved"], "reloading shows the decision again")


def deny(browser):
    with Login("--force") as login:
        asked = login.event()
        browser.open(asked["verification_uri"])
        typed = asked["user_code"].replace("-", "").lower()
        browser.ask("POST", f"/element/{browser.find('#user_code')}/value", {"text": typed})
        browser.press(ENTER)
        browser.wait_for_heading("Approve this login?")
        check(browser.texts(".code") == [asked["user_code"]], "a typed code leads to its login, hyphen or not")
        while browser.focused() != "Deny":
            browser.press(TAB)
        browser.press(ENTER)
        browser.wait_for_heading("Denied")
        event = login.event()
        check((event["event"], event["kind"]) == ("error", "denied"), "the denial is reported")
        check(login.exit_code() == 4, "a denied login ends with 4")
    check(status() == "valid", "the login from before is still there")


def inside(screenshot):
    with tempfile.TemporaryDirectory(prefix="qwenauth-browser-") as directory:
        browser = Browser(directory)
        try:
            approve(browser, screenshot)
            deny(browser)
            complaints = browser.complaints()
            check(not complaints, f"the browser complains of nothing: {complaints}")
        finally:
            browser.close()


def main():
    repository = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser = argparse.ArgumentParser(description="Approves and denies logins in a real Chromium")
    parser.add_argument("--binary", default=os.path.join(repository, "target", "debug", "qwenauth"))
    parser.add_argument("--screenshot", help="where to save a picture of the page")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.alarm(ALL)
    if arguments.inside:
        return inside(arguments.screenshot)
    again = [sys.executable, os.path.abspath(__file__), "--inside"]
    if arguments.screenshot:
        again += ["--screenshot", os.path.abspath(arguments.screenshot)]
    command = [arguments.binary, "sandbox", "--no-approve", "--", *again]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(timeout=ALL)
    except BaseException:
        end_group(process)
        raise
    return code


if __name__ == "__main__":
    sys.exit(main())
