#!/usr/bin/env python3
"""Reverse proxies in front of the server, each with a minimal configuration and with our sample.

A cell of the tables is one question about one proxy with one configuration: is an upload live, when does a waiting side time
out, does the other side notice a kill. `KNOWN` lists each answer that differs from the one without a proxy, with its reason.
Any other difference fails the run, and so does a known one that no longer occurs. Proxies that are not installed are
unpacked below `target` (Debian and its derivatives), because Debian would start them as services.

    system-tests/proxies.py                          # all differences from the server alone: three minutes
    system-tests/proxies.py --write docs/proxies.md  # writes the tables of that page
    system-tests/proxies.py --check docs/proxies.md  # fails where the page differs from the answers
    system-tests/proxies.py --quick                  # without questions that take minutes, Caddy and Varnish
    system-tests/proxies.py --only nginx -v          # one proxy, with a line for each cell
"""

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from harness import (
    CURL,
    FAILURES,
    GIB,
    KIB,
    LAST_CHUNK,
    LOOPBACK,
    MIB,
    ROOT,
    Process,
    Server,
    Tally,
    Test,
    accepts,
    check,
    chunk,
    framing,
    free_port,
    head,
    new_parser,
    no_panics,
    run_all,
    serving,
    wait_until,
)
from packages import Packages, program_of
from pages import MadePage, add_page_arguments, table

SAMPLES = ROOT / "packaging/proxies"

TTL = "10m"  # longer than any question takes
LIMIT = 130.0  # seconds after which a wait counts as not cut
AT_ONCE = 2.0  # seconds that the tables call "at once"
SOON = 8.0  # seconds after which an event counts as not happening
AT_A_TIME = 10  # short questions; the long ones only wait
PAUSE = 0.02  # seconds between two polls

# ------------------------------------------------------------------------------------------------ proxies

DEFAULTS, SAMPLE = "defaults", "our sample"
FRAMINGS = ("length", "chunked")


@dataclass(frozen=True)
class Place:
    """Where a proxy runs: its folder, its port, and the server's port."""

    folder: Path
    packages: Packages
    port: int
    server: int

    def program(self, name: str) -> str:
        path = self.packages.program(name)
        check(path is not None, f"there is no {name}")
        return str(path)

    def file(self, path: str) -> str:
        return self.packages.file(path)

    def sample(self, name: str, *here: tuple[str, str]) -> str:
        """One of our samples, with the addresses of this place."""
        text = (SAMPLES / name).read_text()
        for there, replacement in here:
            check(there in text, f"{name} does not have {there!r}")
            text = text.replace(there, replacement)
        return text


# These settings keep the proxies apart from each other and from those of the machine. They do not affect transfers.
NGINX = """daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    {site}
}}
"""

HAPROXY = """global
    log stderr format raw local0 notice
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
frontend public
    bind {address}
    default_backend server
backend server
    server rendezvous {server}
"""

APACHE = """ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
ErrorLog /dev/stderr
DefaultRuntimeDir {folder}
User www-data
Group www-data
Listen {address}
{modules}
ServerLimit 1
ThreadLimit 250
ThreadsPerChild 250
MaxRequestWorkers 250
Timeout 300
RequestReadTimeout header=20-40,minrate=500
RequestReadTimeout body=10,minrate=500
{site}
"""
APACHE_MODULES = (
    *("mpm_event", "authz_core", "env", "headers", "mime", "proxy", "proxy_http", "reqtimeout", "rewrite"),
    "setenvif",
)

SQUID = """visible_hostname localhost
pid_filename none
cache_log {folder}/cache.log
access_log none
cache_store_log none
coredump_dir {folder}
pinger_enable off
netdb_filename none
error_directory {errors}
icon_directory {icons}
mime_table {mime}
unlinkd_program {unlinkd}
shutdown_lifetime 0 seconds
{site}
"""


def nginx(place: Place, configuration: str) -> Sequence[str]:
    address, server = f"{LOOPBACK}:{place.port}", f"{LOOPBACK}:{place.server}"
    if configuration == SAMPLE:
        site = place.sample(
            "nginx.conf",
            (f"{LOOPBACK}:9999", server),
            ("listen 80;", f"listen {address};"),
            ("    listen 443 ssl http2;\n", ""),
            ("    ssl_certificate /etc/ssl/certs/rendezvous.pem;\n", ""),
            ("    ssl_certificate_key /etc/ssl/private/rendezvous.key;\n", ""),
        )
    else:
        site = f"server {{ listen {address}; location / {{ proxy_pass http://{server}; }} }}"
    (place.folder / "nginx.conf").write_text(NGINX.format(site=site))
    return (place.program("nginx"), "-e", "stderr", "-p", str(place.folder), "-c", "nginx.conf")


def haproxy(place: Place, configuration: str) -> Sequence[str]:
    address, server = f"{LOOPBACK}:{place.port}", f"{LOOPBACK}:{place.server}"
    if configuration == SAMPLE:
        text = place.sample(
            "haproxy.cfg",
            (f"{LOOPBACK}:9999", server),
            ("bind :80\n", f"bind {address}\n"),
            ("    bind :443 ssl crt /etc/haproxy/rendezvous.pem alpn http/1.1\n", ""),
        )
    else:
        text = HAPROXY.format(address=address, server=server)
    (place.folder / "haproxy.cfg").write_text(text)
    return (place.program("haproxy"), "-db", "-f", str(place.folder / "haproxy.cfg"))


def apache(place: Place, configuration: str) -> Sequence[str]:
    server = f"http://{LOOPBACK}:{place.server}/"
    if configuration == SAMPLE:
        site = place.sample("apache.conf", ("http://127.0.0.1:9999/", server), ("*:80>", f"*:{place.port}>"))
    else:
        site = f"ProxyPass / {server}"
    folder = place.file("usr/lib/apache2/modules")
    modules = "\n".join(f"LoadModule {name}_module {folder}/mod_{name}.so" for name in APACHE_MODULES)
    modules += f"\nTypesConfig {place.file('etc/mime.types')}"
    address = f"{LOOPBACK}:{place.port}"
    text = APACHE.format(folder=place.folder, address=address, modules=modules, site=site)
    (place.folder / "apache.conf").write_text(text)
    return (place.program("apache2"), "-X", "-f", str(place.folder / "apache.conf"))


def squid(place: Place, configuration: str) -> Sequence[str]:
    address = f"{LOOPBACK}:{place.port}"
    peer = f"{LOOPBACK} parent {place.server} 0 no-query originserver"
    if configuration == SAMPLE:
        site = place.sample(
            "squid.conf",
            ("http_port 80 ", f"http_port {address} "),
            ("127.0.0.1 parent 9999 0 no-query originserver", peer),
        )
    else:
        site = f"http_port {address} accel defaultsite=localhost\ncache_peer {peer}\nhttp_access allow all"
    text = SQUID.format(
        folder=place.folder,
        errors=place.file("usr/share/squid/errors/templates"),
        icons=place.file("usr/share/squid/icons"),
        mime=place.file("usr/share/squid/mime.conf"),
        unlinkd=place.file("usr/lib/squid/unlinkd"),
        site=site,
    )
    (place.folder / "squid.conf").write_text(text)
    return (place.program("squid"), "-N", "-f", str(place.folder / "squid.conf"))


def caddy(place: Place, configuration: str) -> Sequence[str]:
    options = "{\n admin off\n auto_https disable_redirects\n}\n"
    site = f"http://:{place.port} {{\n bind {LOOPBACK}\n"
    if configuration == SAMPLE:
        server = f"{LOOPBACK}:{place.server}"
        text = place.sample("Caddyfile", (f"{LOOPBACK}:9999", server), ("rendezvous.example.org {", site))
    else:
        text = f"{site} reverse_proxy {LOOPBACK}:{place.server}\n}}\n"
    (place.folder / "Caddyfile").write_text(options + text)
    file = str(place.folder / "Caddyfile")
    return (place.program("caddy"), "run", "--adapter", "caddyfile", "--config", file)


def varnish(place: Place, _: str) -> Sequence[str]:
    text = f'vcl 4.1;\nbackend server {{ .host = "{LOOPBACK}"; .port = "{place.server}"; }}\n'
    (place.folder / "server.vcl").write_text(text)
    program = (place.program("varnishd"), "-F", "-j", "none", "-n", str(place.folder / "work"))
    return (*program, "-a", f"{LOOPBACK}:{place.port}", "-f", str(place.folder / "server.vcl"))


@dataclass(frozen=True)
class Proxy:
    name: str
    package: str
    start: Callable[[Place, str], Sequence[str]]
    version: tuple[str, ...]
    configurations: tuple[str, ...] = (DEFAULTS, SAMPLE)
    quick: bool = True


PROXIES = (
    Proxy("nginx", "nginx", nginx, ("-v",)),
    Proxy("HAProxy", "haproxy", haproxy, ("-v",)),
    Proxy("Apache", "apache2", apache, ("-v",)),
    Proxy("Squid", "squid", squid, ("-v",)),
    Proxy("Caddy", "caddy", caddy, ("version",), quick=False),
    Proxy("Varnish", "varnish", varnish, ("-V",), (DEFAULTS,), quick=False),
)
NONE = "none"  # the server alone, which the others are compared with


@dataclass(frozen=True)
class Site:
    """A proxy with a configuration in front of the server, or the server alone."""

    proxy: str
    configuration: str
    port: int
    server: Server

    @property
    def row(self) -> tuple[str, str]:
        return self.proxy, self.configuration

    def new_stream(self) -> str:
        return self.server.new_stream()

    def state(self, stream: str) -> str:
        return str(self.server.status(stream)["state"])


@contextmanager
def proxying(proxy: Proxy, configuration: str, server: Server, scratch: Path, packages: Packages) -> Iterator[Site]:
    folder = scratch / f"{proxy.package}-{configuration.replace(' ', '-')}"
    folder.mkdir()
    folder.chmod(0o777)  # some proxies change their user
    place = Place(folder, packages, free_port(), server.port)
    command = proxy.start(place, configuration)
    environment = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("w+b") as log:
        out = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process: Process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            start_new_session=True,
            **out,  # type: ignore[call-overload]
        )

        def explained() -> str:
            return f"{proxy.name}, {configuration}: {(folder / 'log').read_text(errors='replace')[-1500:]}"

        try:
            wait_until(lambda: process.poll() is not None or accepts(place.port), bool, f"{proxy.name} listens")
            check(process.poll() is None, f"it does not start: {explained()}")
            yield Site(proxy.name, configuration, place.port, server)
            check(process.poll() is None, f"it ended by itself: {explained()}")
        finally:
            # The whole process group: Apache and Varnish have children.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# ------------------------------------------------------------------------------------------------ clients


class Sender:
    """A source that sends its body piece by piece. Closing its connection equals `kill -9` of a sender."""

    def __init__(self, port: int, stream: str, how: str, length: int, *fields: str, begin: bytes = b"") -> None:
        self.chunked = how == "chunked"
        self.socket = socket.create_connection((LOOPBACK, port), timeout=SOON)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        field = framing(None if self.chunked else length)
        self.socket.sendall(head("PUT", f"/stream/{stream}", field, *fields) + (begin and self.framed(begin)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def framed(self, piece: bytes) -> bytes:
        return chunk(piece) if self.chunked else piece

    def send(self, piece: bytes) -> bool:
        """Sends a piece. False if the connection no longer accepts it."""
        try:
            self.socket.sendall(self.framed(piece))
        except (TimeoutError, ConnectionError):
            return False
        return True

    def end(self) -> None:
        if self.chunked:
            self.socket.sendall(LAST_CHUNK)

    def interim(self, within: float) -> int | None:
        """The status of the next response, interim or final; 0 for a connection that ends without one."""
        deadline = time.monotonic() + within
        while b"\r\n\r\n" not in self.unread:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            try:
                block = self.socket.recv(64 * KIB)
            except TimeoutError:
                return None
            except ConnectionError:
                return 0
            finally:
                self.socket.settimeout(SOON)
            if not block:
                return 0
            self.unread += block
        first, _, self.unread = self.unread.partition(b"\r\n\r\n")
        return int(first.split(None, 2)[1])

    def answer(self, within: float) -> int | None:
        """The status of the final response."""
        deadline = time.monotonic() + within
        while (status := self.interim(max(0.0, deadline - time.monotonic()))) is not None and 100 <= status < 200:
            pass
        return status

    def fill(self, most: int) -> int:
        """Sends until the connection accepts no more for a while. Returns the number of bytes."""
        sent = 0
        piece = bytes(64 * KIB)
        self.socket.settimeout(1.5)
        while sent < most and self.send(piece):
            sent += len(piece)
        self.socket.settimeout(SOON)
        return sent


class Download:
    """A real curl. It writes each piece of a response to its file at once."""

    def __init__(self, port: int, path: str, folder: Path, *more: str) -> None:
        self.file = folder / f"{port}-{random.randrange(10**9)}"
        url = f"http://{LOOPBACK}:{port}{path}"
        options = ("-N", "-o", str(self.file), "-w", "%{http_code}", *more)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process: Process = subprocess.Popen((*CURL, *options, url), **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.file.unlink(missing_ok=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def has(self, size: int, within: float) -> bool:
        return became(lambda: self.size() >= size, within) is not None

    def outcome(self, within: float) -> str | None:
        """`whole`, `cut`, `closed` for a connection without a response, or the status of an error."""
        try:
            out, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            return None
        status = out.decode()
        if status != "200":
            return status if status != "000" else "closed"
        return "whole" if self.process.returncode == 0 else "cut"


class Receiver(Download):
    """The destination of a stream."""

    def __init__(self, port: int, stream: str, folder: Path, *more: str) -> None:
        super().__init__(port, f"/stream/{stream}", folder, *more)


def became(look: Callable[[], bool], within: float) -> float | None:
    """Polls until `look` is true. Returns the seconds that it took, or None."""
    began = time.monotonic()
    while not look():
        if time.monotonic() - began > within:
            return None
        time.sleep(PAUSE)
    return time.monotonic() - began


def duration(seconds: float) -> str:
    """In words that are the same on a busy machine."""
    if seconds < AT_ONCE:
        return "at once"
    return "after 5 s" if seconds < 9 else f"after {int((seconds + 1) / 10) * 10} s"


def shown(status: int | None) -> str:
    return "closed" if status == 0 else str(status)


# ---------------------------------------------------------------------------------------------- questions

Bench = Path  # the directory that receivers write to
Question = Callable[[Site, Bench], str]

PIECES = (1, 1, 1, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 512 * KIB)
TOTAL = sum(PIECES)
NOTHING_PASSED = "**nothing was passed on**"


def in_either(ask: Callable[[Site, Bench, str], str]) -> Question:
    """Asks about a body with a length and about one in chunks, and joins the answers where they are the same."""

    def both(site: Site, bench: Bench) -> str:
        length, chunked = (ask(site, bench, how) for how in FRAMINGS)
        return length if length == chunked else f"with a length: {length}; in chunks: {chunked}"

    return both


class Behind(Enum):
    """The side that uses the proxy. The other connects to the server itself."""

    SENDER = "upload"
    RECEIVER = "download"
    EITHER = "both"


@contextmanager
def pair(
    site: Site, bench: Bench, behind: Behind, how: str, length: int = 0, begin: bytes = b""
) -> Iterator[tuple[str, Sender, Receiver]]:
    """A waiting receiver, then a sender that has sent its head together with the beginning of its body."""
    stream = site.new_stream()
    with Receiver(site.server.port if behind is Behind.SENDER else site.port, stream, bench) as receiver:
        site.server.wait_for_state(stream, "DST_CONNECTED")
        port = site.server.port if behind is Behind.RECEIVER else site.port
        with Sender(port, stream, how, length, begin=begin) as sender:
            yield stream, sender, receiver


def live(behind: Behind, site: Site, bench: Bench, how: str) -> str:
    """Whether each byte arrives before the next is sent, or else which piece makes the first ones arrive."""
    with pair(site, bench, behind, how, TOTAL, begin=bytes(1)) as (_, sender, receiver):
        sent = 1
        alone = [receiver.has(sent, AT_ONCE)]
        first = None
        for size in PIECES[1:]:
            if not sender.send(bytes(size)):
                break
            sent += size
            if size == 1:
                alone.append(receiver.has(sent, AT_ONCE))
            elif not any(alone) and first is None and receiver.has(1, 0.5):
                first = size
        if sent == TOTAL:
            sender.end()
        # Some proxies make the sender get 502 for a body that has arrived. Another question is about that.
        status, outcome = sender.answer(SOON), receiver.outcome(SOON)
        if outcome != "whole":
            return f"**fails**: {shown(status)}, {outcome}"
        check(receiver.size() == TOTAL, f"{receiver.size()} of {TOTAL} bytes, and curl exits with 0")
    if all(alone):
        return "live"
    if any(alone):
        return "**the first byte is held**" if all(alone[1:]) else "**some bytes are held**"
    if first is None or first == PIECES[-1]:
        return "**held until the end**"
    return f"**held until {first // KIB} KiB are there**"


def largest_body(site: Site, _: Bench) -> str:
    """Looks for the limit by lengths just above it, which get 413."""
    limits = {MIB: "**1 MiB**", GIB: "**1 GiB**", 1 << 40: "**1 TiB**"}
    for limit, name in limits.items():
        with Sender(site.port, site.new_stream(), "length", limit + 1) as sender:
            if (status := sender.answer(0.5)) is not None:
                return name if status == 413 else f"{name}: {shown(status)}"
    return "any"


def expectation(site: Site, bench: Bench) -> str:
    """When a sender that expects 100 gets it."""
    stream = site.new_stream()
    with Sender(site.port, stream, "length", 5, "Expect: 100-continue") as sender:
        early = sender.interim(1.5)
        with Receiver(site.server.port, stream, bench) as receiver:
            late = sender.interim(AT_ONCE) if early is None else None
            check(sender.send(b"hello"), "the body is refused")
            status, outcome = sender.answer(SOON), receiver.outcome(SOON)
    if (status, outcome) != (200, "whole") or early not in (None, 100) or late not in (None, 100):
        return f"**fails**: {early}, {late}, {shown(status)}, {outcome}"
    return "once paired" if late else "before the pair" if early else "never"


def whole_transfers(site: Site, bench: Bench) -> str:
    """Whole transfers, one after another, with both sides behind the proxy."""
    results = []
    for number in range(40):
        length = 1000 if number % 4 < 2 else 512 * KIB
        with pair(site, bench, Behind.EITHER, FRAMINGS[number % 2], length) as (_, sender, receiver):
            sender.send(bytes(length))
            sender.end()
            results.append((sender.answer(SOON), receiver.outcome(SOON)))
    wrong = [result for result in results if result != (200, "whole")]
    if not wrong:
        return "all right"
    check(all(outcome == "whole" for _, outcome in wrong), f"{wrong}")
    return f"{len(wrong)} senders of 40 get {shown(wrong[0][0])} for what has arrived"


def sender_killed(behind: Behind, site: Site, bench: Bench, how: str) -> str:
    """Kills the sender in mid-body. The answer is what the receiver sees, and how soon."""
    length = 200 * KIB
    with pair(site, bench, behind, how, length) as (stream, sender, receiver):
        sender.send(bytes(length // 2))
        if became(lambda: site.state(stream) == "STREAMING" or receiver.process.poll() is not None, AT_ONCE):
            receiver.has(1, AT_ONCE)
        began = time.monotonic()
        sender.socket.close()
        outcome = receiver.outcome(SOON)
        took = time.monotonic() - began
        if outcome:
            ended = became(lambda: not site.server.status(stream)["active"], AT_ONCE)
            check(ended is not None, f"{outcome}, and the stream goes on")
        state = site.state(stream)
    if outcome is None:
        return NOTHING_PASSED if state == "DST_CONNECTED" else f"**not noticed**, {state}"
    if outcome == "whole":
        whose = "even to the server" if state == "FINISHED" else "though the server has cut it"
        return f"**looks whole**, {whose}"
    check(state == "SRC_DISCONNECTED", f"{outcome}, {state}")
    return f"{'cut' if outcome == 'closed' else outcome} {duration(took)}"


def cut_old_download(site: Site, bench: Bench) -> str:
    """The same for a receiver of HTTP/1.0, for which the end of the connection is the end of the body."""
    stream = site.new_stream()
    with Receiver(site.port, stream, bench, "--http1.0") as receiver:
        if (early := receiver.outcome(1.0)) is not None:
            return early
        with Sender(site.server.port, stream, "chunked", 0) as sender:
            sender.send(bytes(KIB))
            receiver.has(1, AT_ONCE)
        return {"whole": "**looks whole**", "closed": "cut"}.get(saw := str(receiver.outcome(SOON)), saw)


def seat_freed(site: Site, stream: str) -> str | None:
    took = became(lambda: site.state(stream) == "CREATED", SOON)
    return None if took is None else f"free {duration(took)}"


def killed_waiting_sender(site: Site, _: Bench) -> str:
    stream = site.new_stream()
    with Sender(site.port, stream, "length", 1000) as sender:
        sender.send(bytes(1000))
        if became(lambda: site.state(stream) == "SRC_CONNECTED", AT_ONCE) is None:
            return f"never had a seat: {site.state(stream)}"
    return seat_freed(site, stream) or "**keeps its seat**"


def killed_waiting_receiver(site: Site, bench: Bench) -> str:
    """Kills a waiting receiver, and then connects a sender."""
    stream = site.new_stream()
    with Receiver(site.port, stream, bench) as receiver:
        site.server.wait_for_state(stream, "DST_CONNECTED")
        receiver.kill()
        if freed := seat_freed(site, stream):
            with Receiver(site.port, stream, bench) as next_one:
                site.server.wait_for_state(stream, "DST_CONNECTED")
                with Sender(site.server.port, stream, "length", 5) as sender:
                    sender.send(b"hello")
                    check(sender.answer(SOON) == 200, "the next pair does not end well")
                    check(next_one.outcome(SOON) == "whole", "the next receiver does not get its body")
            return freed
        with Sender(site.server.port, stream, "length", 5) as sender:
            sender.send(b"hello")
            return f"**keeps its seat, and the sender gets {shown(sender.answer(SOON))}**"


def receiver_killed(behind: Behind, site: Site, bench: Bench) -> str:
    """Kills the receiver in mid-body. The answer is when the sender, which pauses and then goes on, gets its response."""
    with pair(site, bench, behind, "chunked") as (stream, sender, receiver):
        sender.send(bytes(100 * KIB))
        if not receiver.has(100 * KIB, AT_ONCE) and not receiver.size():
            return NOTHING_PASSED
        receiver.kill()
        began = time.monotonic()
        status = sender.answer(4.0)
        if status is not None:
            took = time.monotonic() - began
            check((state := site.state(stream)) == "DST_DISCONNECTED", state)
            return f"{shown(status)} {duration(took)}"
        while status is None and time.monotonic() - began < 4.0 + SOON and sender.send(bytes(16 * KIB)):
            status = sender.answer(0.1)
        if status is not None:
            return f"{shown(status)} once it sends more"
        with suppress(ConnectionError):
            sender.end()
        status = sender.answer(SOON)
        return "**not noticed**" if status is None else f"**{shown(status)} at the end of its body**"


AHEAD = 64 * MIB


def early_200(site: Site, bench: Bench) -> str:
    """Whether the sender gets 200 while the receiver reads nothing. The body does not fit into the kernel's buffers."""
    with pair(site, bench, Behind.RECEIVER, "length", AHEAD) as (_, sender, receiver):
        receiver.stop()
        sender.fill(AHEAD)
        status = sender.answer(3.0)
    return "waits" if status is None else f"**{shown(status)}** for 64 MiB that nobody has read"


# Questions that take minutes.


def cut_after(began: float, what: int | str | None) -> str:
    """When and how a wait ended: by a status, 0 for a connection that ended without one, or the outcome of a download."""
    if what is None:
        return "not within 2 min"
    return f"**{duration(time.monotonic() - began)}**: {what or 'closed'}"


def waiting_receiver(site: Site, bench: Bench) -> str:
    began = time.monotonic()
    with Receiver(site.port, site.new_stream(), bench) as receiver:
        return cut_after(began, receiver.outcome(LIMIT))


def waiting_sender(site: Site, _: Bench) -> str:
    began = time.monotonic()
    with Sender(site.port, site.new_stream(), "length", 1000) as sender:
        sender.send(bytes(1000))
        return cut_after(began, sender.answer(LIMIT))


def sender_pauses(behind: Behind, site: Site, bench: Bench) -> str:
    """The sender pauses near the beginning of its body."""
    with pair(site, bench, behind, "length", 200 * KIB) as (_, sender, receiver):
        sender.send(bytes(100))
        began = time.monotonic()
        return cut_after(began, sender.answer(LIMIT) if behind is Behind.SENDER else receiver.outcome(LIMIT))


def receiver_pauses(behind: Behind, site: Site, bench: Bench) -> str:
    """The receiver reads nothing, until the sender cannot send either."""
    with pair(site, bench, behind, "chunked") as (_, sender, receiver):
        receiver.stop()
        began = time.monotonic()
        sender.fill(AHEAD)
        return cut_after(began, sender.answer(LIMIT))


def events(site: Site, bench: Bench) -> str:
    """Whether a subscriber gets each event before the next one happens."""
    stream = site.new_stream()
    with Download(site.port, f"/stream/{stream}/events", bench) as subscriber:

        def has(state: str) -> bool:
            seen = became(lambda: subscriber.file.exists() and state in subscriber.file.read_text(), AT_ONCE)
            return seen is not None

        in_time = [has("CREATED")]
        with Receiver(site.server.port, stream, bench), Sender(site.server.port, stream, "length", 5) as sender:
            in_time.append(has("STREAMING"))
            sender.send(b"hello")
            check(sender.answer(SOON) == 200, "the transfer fails")
            in_time.append(has("FINISHED"))
        outcome = subscriber.outcome(SOON)
    check(outcome == "whole", f"the events end as {outcome}")
    return "live" if all(in_time) else "**held**"


def responses(port: int) -> HTTPConnection:
    return HTTPConnection(LOOPBACK, port, timeout=SOON)


def long_poll(site: Site, bench: Bench) -> str:
    """Asks for the version that the client has, until the wait ends, and again until the state changes."""
    stream = site.new_stream()
    path = f"/stream/{stream}/status"
    with closing(responses(site.port)) as client:
        client.request("GET", path)
        first = client.getresponse()
        first.read()
        version = first.headers.get("ETag", "")
        began = time.monotonic()
        client.request("GET", path, headers={"If-None-Match": version, "Prefer": "wait=1"})
        unchanged = client.getresponse()
        unchanged.read()
        if time.monotonic() - began < 0.9:
            return f"**{unchanged.status} at once**"
        client.request("GET", path, headers={"If-None-Match": version, "Prefer": "wait=60"})
        with Receiver(site.server.port, stream, bench):
            changed = client.getresponse()
            status = changed.read().decode()
    if (unchanged.status, changed.status) != (304, 200):
        return f"**fails**: {unchanged.status}, {changed.status}"
    return "works" if '"DST_CONNECTED"' in status else "**the old status**"


def wait_ends(site: Site, _: Bench) -> str:
    """The end of a wait that the client has limited, for each side."""
    stream = site.new_stream()
    prefer = "Prefer: wait=1"
    with closing(responses(site.port)) as client:
        client.request("GET", f"/stream/{stream}", headers=dict([prefer.split(": ")]))
        response = client.getresponse()
        response.read()
        receiver = f"{response.status}, Retry-After: {response.headers.get('Retry-After')}"
    freed = [seat_freed(site, stream)]
    with Sender(site.port, stream, "length", 5, prefer, begin=b"hello") as sender:
        status = sender.answer(SOON)
    freed.append(seat_freed(site, stream))
    check(all(freed), "the seat is not free")
    saw = (receiver, status)
    return "503" if saw == ("503, Retry-After: 1", 503) else f"**{saw[0]}**, **{shown(status)}**"


def escapes(site: Site, bench: Bench) -> str:
    """Whether a sender behind the proxy meets a receiver at a path with escapes."""
    wrong = []
    for escape in ("%20", "%25", "%2F", "%C3%A9"):
        path = f"/p/{site.proxy}-{random.randrange(10**9)}/a{escape}b"
        with Download(site.server.port, path, bench) as receiver, closing(responses(site.port)) as client:
            wait_until(lambda: site.server.request("HEAD", path)[0], lambda status: status == 200, "it waits")
            try:
                client.request("PUT", path, b"hello")
                status = str(client.getresponse().status)
            except TimeoutError:
                status = "another path"
            if status != "200":
                wrong.append(f"**{status}** for `{escape}`")
            else:
                check(receiver.outcome(SOON) == "whole", "the receiver does not get the body")
    return ", ".join(wrong) or "kept"


TABLES: dict[str, dict[str, Question]] = {
    "live": {
        "upload": in_either(partial(live, Behind.SENDER)),
        "download": in_either(partial(live, Behind.RECEIVER)),
        "`100 Continue`": expectation,
        "largest upload": largest_body,
        "40 whole transfers": whole_transfers,
        "200 before it is read": early_200,
    },
    "endings": {
        "upload whose sender is killed": in_either(partial(sender_killed, Behind.SENDER)),
        "download whose sender is killed": in_either(partial(sender_killed, Behind.RECEIVER)),
        "the same by HTTP/1.0": cut_old_download,
        "download whose receiver is killed": partial(receiver_killed, Behind.RECEIVER),
        "upload whose receiver is killed": partial(receiver_killed, Behind.SENDER),
    },
    "seats": {
        "a waiting sender is killed": killed_waiting_sender,
        "a waiting receiver is killed": killed_waiting_receiver,
    },
    "watching": {
        "events": events,
        "long poll": long_poll,
        "`Prefer: wait=1` ends": wait_ends,
        "escapes in a path": escapes,
    },
    "waits": {
        "receiver waits": waiting_receiver,
        "sender waits": waiting_sender,
        "upload: the sender pauses": partial(sender_pauses, Behind.SENDER),
        "download: the sender pauses": partial(sender_pauses, Behind.RECEIVER),
        "upload: the receiver pauses": partial(receiver_pauses, Behind.SENDER),
        "download: the receiver pauses": partial(receiver_pauses, Behind.RECEIVER),
    },
}
LONG = "waits"


# ------------------------------------------------------------------------------------------------- known


@dataclass(frozen=True)
class Known:
    """Why answers differ from those of the server alone. The page has the answers."""

    proxies: tuple[str, ...]
    configurations: tuple[str, ...]
    questions: tuple[str, ...]
    why: str
    instead: str
    by_chance: str = ""  # the answer on the page, where it differs only sometimes

    def covers(self, cell: "Cell") -> bool:
        proxy, configuration, question = cell
        return (
            proxy in self.proxies
            and configuration in self.configurations
            and any(fnmatchcase(question, pattern) for pattern in self.questions)
        )


BOTH = (DEFAULTS, SAMPLE)
NOTHING = "nothing: it cannot be configured"

KNOWN = (
    Known(
        ("nginx",),
        (DEFAULTS,),
        ("upload", "upload whose *"),
        "`proxy_request_buffering on`: nothing of an upload is passed on before its end. After a kill the receiver waits on",
        "`proxy_request_buffering off` with `proxy_http_version 1.1`",
    ),
    Known(
        ("nginx",),
        (DEFAULTS,),
        ("largest upload", "upload: the receiver pauses"),
        "`client_max_body_size 1m`: more is refused with 413",
        "`client_max_body_size 0`",
    ),
    Known(
        ("nginx",),
        (DEFAULTS,),
        ("a waiting sender is killed",),
        "nginx uses HTTP/1.0 to the server, which then cannot find out whether a sender has gone or has only closed its "
        "sending side",
        "`proxy_http_version 1.1`",
    ),
    Known(
        ("nginx",),
        (DEFAULTS,),
        ("* waits", "upload: the sender pauses", "download: *"),
        "`proxy_read_timeout`, `client_body_timeout` and `send_timeout` are 60 s",
        "7 hours each, which is more than `--idle-timeout`",
    ),
    Known(
        ("HAProxy",),
        (DEFAULTS,),
        ("* waits", "upload: *", "download: *"),
        "Debian's `haproxy.cfg` has `timeout client 50s` and `timeout server 50s`",
        "7 hours each, which is more than `--idle-timeout`",
    ),
    Known(
        ("HAProxy",),
        (DEFAULTS,),
        ("a waiting * is killed", "download whose receiver is killed"),
        "a client that has gone is not looked for while the server has not answered",
        "`option abortonclose` in `defaults`: the frontend needs it too",
    ),
    Known(
        ("HAProxy",),
        (DEFAULTS,),
        ("40 whole transfers",),
        "it resets its connection to the server after a download, often before its kernel has acknowledged the last bytes",
        "HTTP/2 to the server for downloads",
        by_chance="**some senders get 502** for what has arrived",
    ),
    Known(
        ("Apache",),
        (DEFAULTS,),
        ("upload",),
        "the first 16 KiB are waited for before anything is passed on",
        "`SetEnv proxy-prefetch-nonblocking 1`",
    ),
    Known(
        ("Apache",),
        (DEFAULTS,),
        ("upload: the sender pauses",),
        "Debian enables `mod_reqtimeout`: a body may not pause for 10 s, nor bring less than 500 bytes a second",
        "`RequestReadTimeout body=0`, and `Timeout` and `ProxyTimeout` of 7 hours: 5 minutes are the default",
    ),
    Known(
        ("Apache",),
        BOTH,
        ("a waiting * is killed",),
        "the client's connection is not looked at while Apache waits for the server. A side that has gone keeps its seat until "
        "`--ttl` ends, and a sender that comes meanwhile sends to nobody and gets 200",
        f"{NOTHING}. Use another proxy",
    ),
    Known(
        ("Apache",),
        BOTH,
        ("download whose receiver is killed",),
        "that the receiver has gone shows only when Apache writes to it",
        NOTHING,
    ),
    Known(
        ("Apache",),
        BOTH,
        ("upload whose receiver is killed",),
        "the server's answer is not passed on before the end of the body",
        NOTHING,
    ),
    Known(
        ("Apache",),
        (DEFAULTS,),
        ("escapes in a path",),
        "`AllowEncodedSlashes Off`: a path with `%2F` is refused",
        "`AllowEncodedSlashes NoDecode` and `ProxyPass … nocanon`",
    ),
    Known(
        ("Caddy",),
        (DEFAULTS,),
        ("download",),
        "a download with a length is passed on in blocks of 4 KiB",
        "`flush_interval 1ms`",
    ),
    Known(
        ("Caddy",),
        BOTH,
        ("download whose sender is killed",),
        "**a cut download in chunks is ended as if it were whole**",
        "Caddy 2.8 or newer; Debian 12 has 2.6",
    ),
    Known(
        ("Caddy",),
        BOTH,
        ("upload whose receiver is killed",),
        "the server's answer is passed on only once more of the body has come",
        NOTHING,
    ),
    Known(
        ("Varnish",),
        (DEFAULTS,),
        ("upload whose sender is killed",),
        "**a cut upload in chunks is ended as if it were whole**: neither the server nor the receiver can tell",
        "do not use Varnish",
    ),
    Known(
        ("Varnish",),
        (DEFAULTS,),
        ("200 before it is read",),
        "it takes the whole body ahead of its receiver: the sender's 200 means nothing",
        "do not use Varnish",
    ),
    Known(
        ("Varnish",),
        (DEFAULTS,),
        (
            "upload",
            "download",
            "a waiting * is killed",
            "* whose receiver is killed",
            "* waits",
            "upload: the sender pauses",
            "download: *",
        ),
        "the first byte of a body may wait for the second; clients that have gone are not looked for; `first_byte_timeout` and "
        "`between_bytes_timeout` are 60 s, and a sender may pause for 5 s",
        "do not use Varnish",
    ),
    Known(
        ("Varnish",),
        (DEFAULTS,),
        ("long poll",),
        "it answers `If-None-Match` itself, at once, so a client that polls does so without a pause",
        "do not use Varnish",
    ),
    Known(
        ("nginx", "Caddy", "Varnish"),
        BOTH,
        ("`100 Continue`",),
        "the proxy sends the `100 Continue` itself, at once: a body is on its way before the server has accepted it",
        NOTHING,
    ),
    Known(
        ("nginx", "HAProxy", "Apache", "Caddy"),
        BOTH,
        ("the same by HTTP/1.0",),
        "a body without a length ends with the connection, which the proxy closes cleanly after a cut too: a part looks whole",
        "refuse HTTP/1.0 with 505, as our samples do",
    ),
    Known(
        ("Squid", "Varnish"),
        BOTH,
        ("the same by HTTP/1.0",),
        "the same, and in Squid no rule can refuse HTTP/1.0",
        "clients that use HTTP/1.1",
    ),
)


# -------------------------------------------------------------------------------------------------- page

Cell = tuple[str, str, str]  # proxy, configuration, question
ROWS = [(NONE, "–"), *((proxy.name, how) for proxy in PROXIES for how in proxy.configurations)]


@dataclass(frozen=True)
class Page(MadePage):
    """The page for operators."""

    seen: Mapping[Cell, str]
    versions: Mapping[str, str]

    def answer(self, cell: Cell) -> str:
        by_chance = [known.by_chance for known in KNOWN if known.by_chance and known.covers(cell)]
        return by_chance[0] if by_chance else self.seen[cell]

    def results(self, name: str, old: str) -> str:
        """A row for each proxy and configuration. Rows without new answers stay as they are on the page."""
        kept = {tuple(line.strip("| ").split(" | ")[:2]): line for line in old.splitlines()}
        rows = []
        for row in ROWS:
            cells = [(*row, question) for question in TABLES[name]]
            if all(cell in self.seen for cell in cells):
                rows.append((*row, *map(self.answer, cells)))
            elif row in kept:
                rows.append(tuple(kept[row].strip("| ").split(" | ")))
        return table(("proxy", "configuration", *TABLES[name]), *rows)

    def exceptions(self) -> str:
        rows = []
        for known in KNOWN:
            whose = f"{', '.join(known.proxies)}: {' and '.join(known.configurations)}"
            rows.append((whose, known.why, known.instead))
        return table(("proxy, configuration", "what differs, and why", "what to do"), *rows)

    def block(self, kind: str, name: str, old: str) -> str:
        if name in TABLES:
            return self.results(name, old)
        if name == "exceptions":
            return self.exceptions()
        return ", ".join(f"{proxy} {version}" for proxy, version in self.versions.items()) + ".\n"


# -------------------------------------------------------------------------------------------------- test


def test_proxies(options: argparse.Namespace, tally: Tally) -> None:
    began = time.monotonic()
    packages = Packages(options.packages)
    proxies = [
        proxy for proxy in PROXIES if (proxy.quick or not options.quick) and options.only.lower() in proxy.name.lower()
    ]
    packages.provide(proxy.package for proxy in proxies)
    seen = ask_all(options, tally, packages, proxies)
    differing = {cell for cell, saw in seen.items() if saw != seen[NONE, "–", cell[2]]}
    for cell, saw in seen.items():
        with tally.trial(", ".join(cell)):
            check(not saw.startswith("FAILS"), saw)
            explained = cell not in differing or any(known.covers(cell) for known in KNOWN)
            check(explained, f"{saw}, and without a proxy: {seen[NONE, '–', cell[2]]}")
    for known in KNOWN:
        covered = {cell for cell in seen if known.covers(cell)}
        if covered and not known.by_chance:
            with tally.trial(f"known of {', '.join(known.proxies)}: {known.why}"):
                same = sorted(covered - differing)
                check(not same, f"does not differ any more: {same}")
    Page(seen, versions(packages, proxies)).use(options, tally)
    tally.notes.append(f"in {time.monotonic() - began:.0f} s")


def ask_all(options: argparse.Namespace, tally: Tally, packages: Packages, proxies: Sequence[Proxy]) -> dict[Cell, str]:
    """Asks all questions about all proxies at the same time, except that only some busy ones run at once."""
    busy = threading.Semaphore(AT_A_TIME)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.chmod(0o755)  # some proxies change their user
        flags = ("--ttl", TTL, "--trusted-proxy", LOOPBACK)
        log = stack.enter_context((scratch / "log").open("w+b"))
        server = stack.enter_context(serving(options.server, *flags, stderr=log))
        sites = [Site(NONE, "–", server.port, server)]
        for proxy in proxies:
            for configuration in proxy.configurations:
                sites.append(stack.enter_context(proxying(proxy, configuration, server, scratch, packages)))

        def ask(site: Site, name: str, question: str) -> str:
            with busy if name != LONG else nullcontext():
                start = time.monotonic()
                try:
                    saw = TABLES[name][question](site, scratch)
                except FAILURES as failure:
                    saw = f"FAILS: {type(failure).__name__}: {failure}"
            if options.verbose:
                print(f"{', '.join(site.row)}, {question}: {saw} ({time.monotonic() - start:.1f} s)", flush=True)
            return saw

        asked = [
            (site, name, question)
            for name, questions in TABLES.items()
            for question in questions
            for site in sites
            if name != LONG or not options.quick
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(asked)))
        answers = [pool.submit(ask, *one) for one in asked]
        seen = {(*site.row, question): answer.result() for (site, _, question), answer in zip(asked, answers)}
        no_panics(tally, scratch / "log")
        return seen


def versions(packages: Packages, proxies: Sequence[Proxy]) -> dict[str, str]:
    found = {}
    for proxy in proxies:
        command = (str(packages.program(program_of(proxy.package))), *proxy.version)
        done = subprocess.run(command, capture_output=True, check=True)
        version = re.search(r"\d+\.\d+\.?\d*", (done.stdout + done.stderr).decode())
        found[proxy.name] = version[0] if version else "?"
    return found


TESTS: dict[str, Test] = {"proxies": test_proxies}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--only", default="", metavar="NAME", help="a part of a proxy's name")
    parser.add_argument("--quick", action="store_true", help="without the questions that take minutes")
    add_page_arguments(parser, "cell")
    return run_all(parser, TESTS, "curl")


if __name__ == "__main__":
    sys.exit(main())
