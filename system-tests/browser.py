#!/usr/bin/env python3
"""A real browser as a client of the server: Debian's Chromium, without a window (Debian and its derivatives: `chromium` and
`npm` must be installed, and the rest is installed below `target`).

A page watches streams by EventSource and by long polls: a page of the server itself, over HTTP/1.1, over HTTP/2 and through
nginx, and a page of another origin that the server allows. Pages of an origin that is not allowed, and prefetches, get
nothing and use nothing up.

    system-tests/browser.py
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import (
    LAST_CHUNK,
    LOOPBACK,
    PATIENCE,
    ROOT,
    Process,
    Server,
    Tally,
    Test,
    check,
    chunk,
    framing,
    head,
    new_pair,
    new_parser,
    no_panics,
    output_of,
    run_all,
    serving,
    wait_until,
)
from packages import Packages, add_packages_argument, install_npm
from proxies import PROXIES, SAMPLE, proxying

HERE = Path(__file__).resolve().parent / "browser"

# Debian packages: chromium npm. Debian 12's own Node is too old for Playwright.
TOOLS = ("chromium", "npm")
NPM = ("node@24.21.0", "playwright-core@1.65.1")

CLOSED = 2  # `EventSource.CLOSED`
BODY = b"hello"


# ----------------------------------------------------------------------------------------------- browser


class Browser:
    """A running Chromium."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def command(self, *command: object) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        line = output_of(self.process).readline()
        check(line != b"", "the browser has ended")
        result = json.loads(line)
        check("error" not in result, f"{command}: {result.get('error')}")
        return result.get("value")

    @contextmanager
    def page(self, url: str) -> Iterator["Page"]:
        number = self.command("open", url)
        try:
            yield Page(self, number)
        finally:
            self.command("close", number)


@dataclass(frozen=True)
class Page:
    """An open page. `browser/chromium.mjs` has the functions that scripts can call in it."""

    browser: Browser
    number: int

    def run(self, script: str) -> Any:
        """Runs a script in the page. Returns its value, which is awaited if it is a promise."""
        return self.browser.command("run", self.number, script)

    def call(self, function: str, *inputs: object) -> Any:
        return self.run(f"{function}({', '.join(map(json.dumps, inputs))})")

    def statuses(self, url: str) -> list[int]:
        """The statuses of the responses from this URL so far."""
        return [status for asked, status in self.browser.command("responses", self.number) if asked == url]


@contextmanager
def browsing(directory: Path, profile: Path) -> Iterator[Browser]:
    """Runs Chromium with an empty profile."""
    modules = directory / "node_modules"
    script = (HERE / "chromium.mjs", modules / "playwright-core/index.js", str(shutil.which("chromium")), profile)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen((modules / "node/bin/node", *script), **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Browser(process)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()  # Chromium ends with it


class EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site_of_pages() -> Iterator[str]:
    """Serves an empty page. Returns its origin, which is another site than 127.0.0.1, because its name is another."""
    with ThreadingHTTPServer((LOOPBACK, 0), EmptyPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()


# ------------------------------------------------------------------------------------------------- tests


@contextmanager
def connected(server: Server, method: str, path: str, *fields: str) -> Iterator[socket.socket]:
    """Sends the head of a request."""
    with socket.create_connection((LOOPBACK, server.port), timeout=PATIENCE) as side:
        side.sendall(head(method, path, *fields))
        yield side


def sees_every_state(page: Page, server: Server, base: str, source_is_first: bool) -> None:
    """The page sees each state of a transfer once, and then leaves the server alone."""
    stream = server.new_stream()
    events = f"{base}/stream/{stream}/events"

    def until(state: str) -> None:
        """Nothing changes before the page has seen the last change."""
        wait_until(
            lambda: page.call("watched", events)["seen"], lambda seen: bool(seen) and seen[-1][1] == state, state
        )

    sides = {
        "SRC_CONNECTED": ("PUT", f"/stream/{stream}", framing(None)),
        "DST_CONNECTED": ("GET", f"/stream/{stream}"),
    }
    first, second = sides if source_is_first else reversed(sides)
    page.call("watch", events)
    until("CREATED")
    with connected(server, *sides[first]) as one:
        until(first)
        with connected(server, *sides[second]) as other:
            until("STREAMING")
            (one if source_is_first else other).sendall(chunk(BODY) + LAST_CHUNK)
            until("FINISHED")
    # An EventSource connects again after the end. The server answers 204, which closes it.
    subscriber = wait_until(
        lambda: page.call("watched", events), lambda seen: seen["readyState"] == CLOSED, "the EventSource is closed"
    )
    expected = [[at + 1, state] for at, state in enumerate(("CREATED", first, "STREAMING", "FINISHED"))]
    check(subscriber["seen"] == expected, f"{subscriber['seen']} instead of {expected}")
    wait_until(lambda: page.statuses(events), lambda statuses: statuses == [200, 204], "a response, and one 204")


def polls(page: Page, server: Server, base: str) -> None:
    """The page gets 304 after its wait, or the next state as soon as there is one."""
    stream = server.new_stream()
    status = f"{base}/stream/{stream}/status"
    first = page.call("ask", status)
    check((first["status"], first["state"]) == (200, "CREATED"), f"the first answer is {first}")
    began = time.monotonic()
    same = page.call("ask", status, {"If-None-Match": first["etag"], "Prefer": "wait=1"})
    took = time.monotonic() - began
    check((same["status"], same["etag"], same["applied"]) == (304, first["etag"], "wait=1"), f"no change gets {same}")
    check(took >= 1, f"the wait took {took:.2f} s")
    condition = json.dumps({"If-None-Match": first["etag"], "Prefer": "wait=600"})
    page.run(f"window.poll = ask({json.dumps(status)}, {condition}), 'it runs'")
    with connected(server, "GET", f"/stream/{stream}"):
        changed = page.run("poll")
    check((changed["status"], changed["state"]) == (200, "DST_CONNECTED"), f"a change gets {changed}")
    check(changed["etag"] not in (None, first["etag"]), f"the ETag is {changed['etag']}")


def refusals(server: Server) -> int:
    """How many requests got 403. The browser hides the responses from foreign pages, and from this test."""
    _, metrics = server.request("GET", "/metrics")
    name = b'rendezvous_refusals_total{error="ForbiddenError"} '
    return next((int(line.removeprefix(name)) for line in metrics.splitlines() if line.startswith(name)), 0)


def is_refused_events(page: Page, server: Server, base: str) -> None:
    """The page of another origin gets no event, and does not try again."""
    events = f"{base}/stream/{server.new_stream()}/events"
    refused = refusals(server)
    page.call("watch", events)
    subscriber = wait_until(
        lambda: page.call("watched", events), lambda seen: seen["readyState"] == CLOSED, "the EventSource is closed"
    )
    check(subscriber["seen"] == [], f"the page has seen {subscriber['seen']}")
    check(refusals(server) > refused, "the request of the page did not get 403")


def uses_no_path_up(page: Page, server: Server, base: str, element: str, attributes: Mapping[str, str]) -> None:
    """The page loads the URL of a waiting sender by an element. The sender is still there for its receiver."""
    path = f"/p/{element}"
    (attribute,) = (name for name, value in attributes.items() if value == URL)
    refused = refusals(server)
    with connected(server, "PUT", path, framing(len(BODY))) as sender:
        sender.sendall(BODY)
        wait_until(lambda: server.request("HEAD", path)[0], lambda status: status == 200, "the sender waits")
        loaded = page.call("embed", element, {**attributes, attribute: base + path})
        check(loaded == "failed", "the page has loaded it")
        check(refusals(server) > refused, "the request of the page did not get 403")
        received = server.request("GET", path)
        check(received == (200, BODY), f"the receiver gets {received}")
        answer = sender.recv(64)
        check(answer.startswith(b"HTTP/1.1 200 "), f"the sender gets {answer!r}")


URL = "the URL of the path"
# What loads a URL without the user: on a page of another site, and by a prefetch even on a page of the server.
FOREIGN_ELEMENTS = (("img", {"src": URL}), ("script", {"src": URL}), ("video", {"src": URL}))
PREFETCH = ("link", {"rel": "prefetch", "href": URL})


def test_browser(options: argparse.Namespace, tally: Tally) -> None:
    began = time.monotonic()
    directory, packages = options.directory.resolve(), Packages(options.packages)
    install_npm(directory, NPM)
    packages.provide(("nginx",))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.chmod(0o755)  # nginx changes its user
        allowed, foreign = (stack.enter_context(site_of_pages()) for _ in range(2))
        log = stack.enter_context((scratch / "log").open("w+b"))
        flags = ("--cors-origin", allowed, "--trusted-proxy", LOOPBACK, "--open-list")
        pair = new_pair(scratch, "browser")
        server = stack.enter_context(serving(options.server, *flags, pair=pair, stderr=log))
        nginx = next(proxy for proxy in PROXIES if proxy.name == "nginx")
        proxy = stack.enter_context(proxying(nginx, SAMPLE, server, scratch, packages))
        browser = stack.enter_context(browsing(directory, scratch / "profile"))

        plain = f"http://{LOOPBACK}:{server.port}"
        secure = f"https://{LOOPBACK}:{server.tls_port}"
        proxied = f"http://{LOOPBACK}:{proxy.port}"
        # A page of the server itself: its front page may not connect to anything.
        own = "/ping"
        for view, opened, base, source_is_first in (
            ("HTTP/1.1", plain + own, plain, False),
            ("HTTP/2", secure + own, secure, True),
            ("nginx", proxied + own, proxied, False),
            ("allowed origin", allowed, plain, True),
            ("allowed origin, nginx", allowed, proxied, False),
        ):
            with browser.page(opened) as page:
                with tally.trial(f"{view}: events"):
                    sees_every_state(page, server, base, source_is_first)
                with tally.trial(f"{view}: long poll"):
                    polls(page, server, base)
        for base in (plain, proxied):
            with browser.page(foreign) as page:
                with tally.trial(f"foreign origin, {base}: events"):
                    is_refused_events(page, server, base)
                for element, attributes in FOREIGN_ELEMENTS:
                    with tally.trial(f"foreign origin, {base}: {element}"):
                        uses_no_path_up(page, server, base, element, attributes)
            with browser.page(base + own) as page, tally.trial(f"prefetch, {base}"):
                uses_no_path_up(page, server, base, *PREFETCH)
        no_panics(tally, scratch / "log")
    tally.notes.append(f"in {time.monotonic() - began:.0f} s")


TESTS: dict[str, Test] = {"browser": test_browser}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    where = "where npm's packages are installed"
    parser.add_argument("--directory", type=Path, default=ROOT / "target/browser", help=where)
    add_packages_argument(parser)
    return run_all(parser, TESTS, *TOOLS)


if __name__ == "__main__":
    sys.exit(main())
