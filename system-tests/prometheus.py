#!/usr/bin/env python3
"""The metrics in the real Prometheus, in a minute (Linux, curl, openssl, no Python packages). Where `prometheus` and `promtool` are
not installed, it unpacks Debian's package.

    numbers    a known load, scraped every second in both formats: Prometheus has the same numbers, to the byte
    dashboard  each query of packaging/grafana is valid and has results
    alerts     each rule of packaging/prometheus is valid, is evaluated, is silent on a healthy server, and fires when it should

RENDEZVOUS_DATA_PATH=copy tests a server that copies all bodies.
"""

import argparse
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from harness import (
    CURL,
    LAST_CHUNK,
    LOOPBACK,
    MIB,
    PATIENCE,
    ROOT,
    Command,
    Server,
    Tally,
    Test,
    check,
    child,
    chunk,
    framing,
    head,
    listening_ports,
    new_pair,
    new_parser,
    reset,
    run_all,
    serving,
    wait_until,
)
from packages import Packages, add_packages_argument

PACKAGING = ROOT / "packaging"
DASHBOARD = PACKAGING / "grafana/rendezvous.json"
ALERTS = PACKAGING / "prometheus/alerts.yml"
ALERTS_TEST = PACKAGING / "prometheus/alerts.test.yml"

SIZES = (0, 1, 1000, 65_536, MIB + 3, 16 * MIB + 1)
CUT_SIZES = (1, 100_000, 3 * MIB)
REFUSED = 7  # requests of each kind; more than one, so that no count is right by chance
OLDER = "text/plain;version=0.0.4"
OPEN_METRICS = "application/openmetrics-text;version=1.0.0"

# The increase of each sample that a load must cause. A sample is a name with labels, as Prometheus writes them.
Load = Counter[str]
Step = Callable[[Server], Load]


def sample(name: str, **labels: str) -> str:
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"rendezvous_{name}{{{pairs}}}" if pairs else f"rendezvous_{name}"


BYTES = sample("body_bytes_total")
PAIRED, TRANSFERRED, DELIVERED = (
    sample(f"{name}_seconds_count") for name in ("pairing_wait", "transfer_duration", "delivery_wait")
)


def opened(protocol: str, count: int, tls: str = "no") -> Load:
    """The load of a number of connections."""
    return Load({sample("connections_total", protocol=protocol, tls=tls): count})


def ended(outcome: str) -> str:
    return sample("streams_ended_total", outcome=outcome, kind="stream")


def refused(error: str) -> str:
    return sample("refusals_total", error=error)


def transfer(outcome: str, size: int) -> Load:
    """The load of one transfer, without its connections."""
    load = Counter({PAIRED: 1, TRANSFERRED: 1, ended(outcome): 1, BYTES: size})
    if outcome == "finished":
        load[DELIVERED] = 1
    return load


# ------------------------------------------------------------------------------------------------- clients


def connect(server: Server, tls: bool = False) -> socket.socket:
    plain = socket.create_connection((LOOPBACK, server.tls_port if tls else server.port), PATIENCE)
    if not tls:
        return plain
    assert server.pair
    return ssl.create_default_context(cafile=server.pair.certificate).wrap_socket(plain, server_hostname=LOOPBACK)


@contextmanager
def asking(server: Server, request: bytes, tls: bool = False) -> Iterator[socket.socket]:
    """A connection on which one request has begun."""
    with connect(server, tls) as client:
        client.sendall(request)
        yield client


def answer(client: socket.socket) -> HTTPResponse:
    response = HTTPResponse(client)
    response.begin()
    return response


def ask(server: Server, request: bytes, status: int, tls: bool = False) -> bytes:
    with asking(server, request, tls) as client:
        response = answer(client)
        body = response.read()
        check(response.status == status, f"{request[:40]!r}: {response.status} {body!r}")
        return body


def new_stream(server: Server, tls: bool = False) -> str:
    """Creates a stream by one connection."""
    return str(json.loads(ask(server, head("POST", "/stream"), 201, tls))["stream"])


def put(server: Server, stream: str, *fields: str, tls: bool = False) -> Any:
    return asking(server, head("PUT", f"/stream/{stream}", *fields), tls)


def get(server: Server, stream: str, tls: bool = False) -> Any:
    return asking(server, head("GET", f"/stream/{stream}"), tls)


# --------------------------------------------------------------------------------------------------- loads


def whole(server: Server, size: int, chunked: bool, source_first: bool, tls: bool = False) -> Load:
    """A transfer without a fault."""
    body = os.urandom(size)
    stream = new_stream(server, tls)
    field = framing(None if chunked else size)
    upload = (chunk(body) if size else b"") + LAST_CHUNK if chunked else body
    with ExitStack() as both, ThreadPoolExecutor(1) as pool:
        if source_first:
            source = both.enter_context(put(server, stream, field, tls=tls))
        destination = both.enter_context(get(server, stream, tls))
        if not source_first:
            source = both.enter_context(put(server, stream, field, tls=tls))
        sending = pool.submit(source.sendall, upload)
        check(answer(destination).read() == body, f"the {size} bytes that arrived are others")
        sending.result()
        check(answer(source).status == 200, f"{size} bytes arrived, and the sender does not get 200")
    return transfer("finished", size) + opened("http1", 3, "yes" if tls else "no")


def wholes(server: Server) -> Load:
    """All sizes, framings and orders, several at a time."""
    ways = list(product(SIZES, (False, True), (False, True), (False, True)))
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda way: whole(server, *way), ways), Load())


def cut(server: Server, size: int, source_leaves: bool) -> Load:
    """A transfer in which one side leaves after half of the body."""
    stream = new_stream(server)
    with (
        put(server, stream, framing(2 * size)) as source,
        get(server, stream) as destination,
        ThreadPoolExecutor(1) as pool,
    ):
        sending = pool.submit(source.sendall, os.urandom(size))
        download = answer(destination)
        check(len(download.read(size)) == size, "half of the body does not arrive")
        sending.result()
        if source_leaves:
            reset(source)
            try:
                rest = download.read()
                check(False, f"a cut download looks whole: {rest!r}")
            except (IncompleteRead, ConnectionResetError):
                pass
        else:
            download.close()
            reset(destination)
            check(answer(source).status == 502, "the sender does not get 502")
    side = "source" if source_leaves else "destination"
    return transfer(f"{side}_disconnected", size) + opened("http1", 3)


def cuts(server: Server) -> Load:
    return sum((cut(server, size, side) for size, side in product(CUT_SIZES, (True, False))), Load())


def reports(server: Server) -> Load:
    """One side reports an error. The other gets it when it connects."""
    for _ in range(REFUSED):
        stream = new_stream(server)
        ask(server, head("POST", f"/stream/{stream}/error"), 200)
        ask(server, head("GET", f"/stream/{stream}"), 400)
    load = Load({ended("reported"): REFUSED, refused("reported"): REFUSED})
    return load + opened("http1", 3 * REFUSED)


def refusals(server: Server) -> Load:
    """Requests that are refused."""
    not_json = head("POST", "/stream", "Content-Length: 1") + b"x"
    for turn in range(REFUSED):
        ask(server, head("GET", f"/stream/unknown-{turn}"), 404)
        ask(server, head("GET", "/nowhere"), 404)
        ask(server, b"GET /ping HTTP/1.1\r\n\r\n", 400)
        ask(server, not_json, 400)
    errors = ("SessionNotFoundError", "BadRouteError", "BadRequestError", "InvalidBodyError")
    load = Load({refused(error): REFUSED for error in errors})
    return load + opened("http1", 4 * REFUSED)


def taken_seats(server: Server) -> Load:
    """Further destinations are refused, and the first is served."""
    stream = new_stream(server)
    with get(server, stream) as destination:
        server.wait_for_state(stream, "DST_CONNECTED")
        for _ in range(REFUSED):
            ask(server, head("GET", f"/stream/{stream}"), 429)
        with put(server, stream, framing(5)) as source:
            source.sendall(b"hello")
            check(answer(destination).read() == b"hello", "the first destination is not served")
            check(answer(source).status == 200, "the sender does not get 200")
    load = Load({refused("AlreadyConnectedError"): REFUSED})
    return load + transfer("finished", 5) + opened("http1", 3 + REFUSED)


def silent(server: Server) -> Load:
    """Connections that end without a byte."""
    for port in (server.port, server.tls_port):
        for _ in range(REFUSED):
            socket.create_connection((LOOPBACK, port), PATIENCE).close()
    return opened("none", REFUSED) + opened("none", REFUSED, "yes")


def over_tls(server: Server) -> Load:
    return whole(server, 100_000, chunked=False, source_first=True, tls=True)


def over_http2(server: Server) -> Load:
    """A transfer by curl on both sides, one with prior knowledge, the other over TLS."""
    assert server.pair
    stream = new_stream(server)
    curl = (*CURL, "-f", "--max-time", str(PATIENCE))
    trust = ("--cacert", str(server.pair.certificate))
    with child(*curl, "--http2", *trust, server.tls_url(stream), stdout=subprocess.PIPE) as receiver:
        upload = ("--http2-prior-knowledge", "-T", "-", server.url(stream))
        subprocess.run((*curl, *upload), input=b"x" * 12_345, check=True)
        body, _ = receiver.communicate(timeout=PATIENCE)
    check(body == b"x" * 12_345, f"{len(body)} bytes arrived over HTTP/2")
    return transfer("finished", 12_345) + opened("http2", 1, "yes") + opened("http2", 1) + opened("http1", 1)


STEPS: tuple[Step, ...] = (wholes, cuts, reports, refusals, taken_seats, silent, over_tls, over_http2)

# Ended streams stay visible for the whole test.
LONG = ("--ttl", "10m")
# The second server has limits that are reached soon.
SHORT = ("--ttl", "2s", "--idle-timeout", "1s", "--max-stream-bytes", "1000")


def expiries(server: Server) -> Load:
    """Streams without sides, and one with one side, that expire."""
    streams = [new_stream(server) for _ in range(REFUSED)]
    ask(server, head("GET", f"/stream/{streams[0]}"), 504)
    load = Load({ended("expired"): REFUSED, refused("SessionTimeoutError"): 1})
    return load + opened("http1", REFUSED + 1)


def stalls(server: Server) -> Load:
    """A source that stops in the middle."""
    stream = new_stream(server)
    with put(server, stream, framing(10)) as source, get(server, stream) as destination:
        source.sendall(b"12345")
        check(answer(destination).read(5) == b"12345", "half of the body does not arrive")
        check(answer(source).status == 502, "a source that stalls does not get 502")
    return transfer("source_stalled", 5) + opened("http1", 3)


def too_long(server: Server) -> Load:
    """Uploads over the limit: one declares its length, the other is chunked."""
    stream = new_stream(server)
    with put(server, stream, framing(1001)) as source:
        check(answer(source).status == 413, "an upload over the limit is not refused")
    with put(server, stream, framing(None)) as source, get(server, stream) as destination:
        source.sendall(chunk(b"x" * 1000))
        check(len(answer(destination).read(1000)) == 1000, "the first 1000 bytes do not arrive")
        source.sendall(chunk(b"x"))
        check(answer(source).status == 413, "an upload that is over the limit is not ended")
    load = Load({refused("BodyTooLargeError"): 1})
    return load + transfer("too_long", 1000) + opened("http1", 4)


SHORT_STEPS: tuple[Step, ...] = (expiries, stalls, too_long)


@contextmanager
def unfinished(server: Server) -> Iterator[Load]:
    """A stream in each state. Yields their gauges, and the counters so far."""
    _, sending, receiving, streaming = (new_stream(server) for _ in range(4))
    with (
        put(server, sending, framing(1)),
        get(server, receiving),
        put(server, streaming, framing(10)) as source,
        get(server, streaming) as destination,
    ):
        source.sendall(b"12345")
        check(answer(destination).read(5) == b"12345", "half of the body does not arrive")
        states = ("created", "source_waits", "destination_waits", "streaming")
        gauges = Load({sample("streams", state=state, kind="stream"): 1 for state in states})
        yield gauges + Load({PAIRED: 1, BYTES: 5, sample("open_connections"): 4}) + opened("http1", 8)


# ---------------------------------------------------------------------------------------------- Prometheus


@contextmanager
def older_format(server: Server) -> Iterator[int]:
    """A port that relays the metrics in the older text format, by one connection. Prometheus itself requests OpenMetrics."""
    upstream = HTTPConnection(LOOPBACK, server.port, timeout=PATIENCE)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                upstream.request("GET", "/metrics", headers={"Accept": OLDER})
                response = upstream.getresponse()
                body = response.read()
            self.send_response(response.status)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as relay:
        thread = threading.Thread(target=relay.serve_forever, daemon=True)
        thread.start()
        try:
            yield relay.server_address[1]
        finally:
            relay.shutdown()
            upstream.close()


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus and its HTTP API."""

    port: int
    log: Path

    def get(self, path: str) -> tuple[int, bytes]:
        client = HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
        try:
            client.request("GET", path)
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    def api(self, path: str, **parameters: str) -> Any:
        _, body = self.get(f"/api/v1/{path}?{urlencode(parameters)}")
        response = json.loads(body)
        check(response["status"] == "success", f"{path} {parameters}: {response}")
        return response["data"]

    def query(self, query: str) -> list[tuple[dict[str, str], float]]:
        return [(one["metric"], float(one["value"][1])) for one in self.api("query", query=query)["result"]]

    def value(self, query: str) -> float:
        found = self.query(query)
        check(len(found) == 1, f"{query}: {found}")
        return found[0][1]

    def samples(self, job: str) -> dict[str, float]:
        """All samples of the server of this job, without the buckets and sums of histograms."""
        found = self.query(f'{{__name__=~"rendezvous_.*",__name__!~".*_(bucket|sum)",job="{job}"}}')
        ours = [
            ({name: label for name, label in labels.items() if name not in {"job", "instance"}}, value)
            for labels, value in found
        ]
        return {sample(labels.pop("__name__").removeprefix("rendezvous_"), **labels): value for labels, value in ours}

    def target(self, job: str) -> dict[str, Any]:
        targets = self.api("targets", state="active")["activeTargets"]
        return next(dict(target) for target in targets if target["labels"]["job"] == job)

    def metadata(self, job: str) -> dict[str, tuple[str, str]]:
        """Type and unit of each metric."""
        metadata = self.api("targets/metadata", match_target=f'{{job="{job}"}}')
        ours = [one for one in metadata if one["metric"].startswith("rendezvous_")]
        return {one["metric"].removeprefix("rendezvous_"): (one["type"], one["unit"]) for one in ours}

    def scrapes(self, job: str) -> float:
        return sum(count for _, count in self.query(f'count_over_time(up{{job="{job}"}}[1h])'))

    def wait_for_scrapes(self, job: str, more: int) -> None:
        """Waits for a number of scrapes that begin after this call. One may be under way."""
        enough = self.scrapes(job) + more + 1
        wait_until(lambda: self.scrapes(job), lambda count: count >= enough, f"scrapes of {job}")

    def complaints(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if re.search(r"level=(?:WARN|ERROR)", line, re.IGNORECASE)]


@contextmanager
def watching(ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Runs Prometheus, which scrapes each of these jobs every second and evaluates the alerts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"{LOOPBACK}:{port}"]}]}
                for job, port in ports.items()
            ],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        flags = (
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={LOOPBACK}:0",
        )
        log = folder / "log"
        with log.open("wb") as out, child("prometheus", *flags, stdout=out, stderr=out) as process:

            def port() -> int:
                check(process.poll() is None, f"Prometheus has ended: {log.read_text()}")
                return next(iter(listening_ports(process.pid)), 0)

            prometheus = Prometheus(wait_until(port, bool, "Prometheus listens"), log)
            wait_until(lambda: prometheus.get("/-/ready"), lambda response: response[0] == 200, "Prometheus is ready")
            yield prometheus


def metrics(server: Server, accept: str) -> tuple[str, str]:
    """The text and its Content-Type."""
    client = HTTPConnection(LOOPBACK, server.port, timeout=PATIENCE)
    try:
        client.request("GET", "/metrics", headers={"Accept": accept})
        response = client.getresponse()
        return response.read().decode(), response.headers["Content-Type"]
    finally:
        client.close()


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    """Runs promtool, which must print no complaint."""
    command = ("promtool", *arguments)
    ran = subprocess.run(command, check=False, input=text, capture_output=True, text=True, timeout=PATIENCE)
    output = ran.stdout + ran.stderr
    check(ran.returncode == 0, f"promtool {arguments}: {ran.returncode} {output}")
    if arguments[:2] == ("check", "metrics"):
        check(not output, f"promtool {arguments}: {output}")


# --------------------------------------------------------------------------------------------------- tests


@contextmanager
def servers(program: Command) -> Iterator[tuple[Server, Server, Prometheus]]:
    """A server with a long ttl that is scraped in both formats, one with narrow limits, a node of a cluster without an engine, and Prometheus."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(program, *LONG, pair=new_pair(scratch, "metrics")))
        short = stack.enter_context(serving(program, *SHORT))
        secret = scratch / "secret"
        secret.write_text("x" * 64)
        cluster = ("--cluster", f"redis://{LOOPBACK}:1", "--cluster-secret-file", str(secret))
        node = stack.enter_context(serving(program, *cluster, "--cluster-listen", f"{LOOPBACK}:0"))
        older = stack.enter_context(older_format(server))
        jobs = {"rendezvous": server.port, "older": older, "short": short.port, "node": node.port}
        yield server, short, stack.enter_context(watching(jobs))


def numbers(options: argparse.Namespace, tally: Tally) -> None:
    with servers(options.server) as (server, short, prometheus):
        jobs = {"rendezvous": server, "older": server, "short": short}
        asked = Load()
        load, short_load = done(STEPS, counting(server, asked), tally), done(SHORT_STEPS, short, tally)
        load[sample("streams", state="ended", kind="stream")] = sum(
            count for name, count in load.items() if name.startswith("rendezvous_streams_ended_total")
        )
        with unfinished(server) as open_now:
            load += asked + open_now
            # Prometheus has a connection to each, and the relay for the older format has one too.
            loads = {
                "rendezvous": load + scraped_by(2),
                "older": load + scraped_by(2),
                "short": short_load + scraped_by(1),
            }
            for job in jobs:
                with tally.trial(f"the numbers of {job}"):
                    agree(prometheus, job, loads[job])
        for job, scraped in jobs.items():
            with tally.trial(f"the scrapes of {job}"):
                check_scrapes(prometheus, job, scraped)
        with tally.trial("the formats"):
            check_formats(prometheus)
        with tally.trial("promtool's lints"):
            promtool("check", "metrics", text=metrics(server, OLDER)[0])
        with tally.trial("Prometheus' log"):
            check(not prometheus.complaints(), str(prometheus.complaints()))
        tally.notes.append(f"{load[BYTES] + short_load[BYTES]} body bytes")


def done(steps: Sequence[Step], server: Server, tally: Tally) -> Load:
    load = Load()
    for step in steps:
        with tally.trial(step.__name__):
            load += step(server)
    return load


def scraped_by(connections: int) -> Load:
    return opened("http1", connections) + Load({sample("open_connections"): connections})


def counting(server: Server, asked: Load) -> Server:
    """The same server, which counts each request about the state of a stream as a connection."""

    class Counting(Server):
        def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
            asked.update(opened("http1", 1))
            return super().request(method, path, body)

    return Counting(server.pid, server.port, server.tls_port, server.pair)


def agree(prometheus: Prometheus, job: str, load: Load) -> None:
    """Checks that Prometheus soon has exactly this load, and still has it a scrape later."""

    def differences() -> dict[str, tuple[float, float]]:
        samples = prometheus.samples(job)
        names = {name for name, value in samples.items() if value} | set(load)
        names -= {name for name in names if name.startswith("rendezvous_build_info")}
        return {
            name: (samples.get(name, -1.0), float(load[name]))
            for name in sorted(names)
            if samples.get(name) != load[name]
        }

    wait_until(differences, lambda found: not found, f"(scraped, expected) of {job}")
    prometheus.wait_for_scrapes(job, 1)
    check(not differences(), f"(scraped, expected) of {job} a scrape later: {differences()}")
    infinite = {
        labels["__name__"]: value
        for labels, value in prometheus.query(f'{{__name__=~"rendezvous_.*_bucket",le="+Inf",job="{job}"}}')
    }
    check(len(infinite) == 3, f"the histograms of {job}: {infinite}")
    for name, value in infinite.items():
        count = prometheus.value(f'{name.replace("_bucket", "_count")}{{job="{job}"}}')
        check(count == value, f"{name} of {job}: {value}, and {count} in all")


def check_formats(prometheus: Prometheus) -> None:
    """Checks that both formats were used: only OpenMetrics has units and the type `info`."""
    openmetrics, older = prometheus.metadata("rendezvous"), prometheus.metadata("older")
    check(openmetrics.get("body_bytes") == ("counter", "bytes"), f"not OpenMetrics: {openmetrics}")
    check(openmetrics.get("build") == ("info", ""), f"not OpenMetrics: {openmetrics}")
    check(older.get("body_bytes_total") == ("counter", ""), f"not the older format: {older}")
    check(older.get("build_info") == ("gauge", ""), f"not the older format: {older}")
    check(len(openmetrics) == len(older), f"one has more metrics: {openmetrics} {older}")
    check(
        all(kind != "unknown" for kind, _ in (*openmetrics.values(), *older.values())),
        f"{openmetrics} {older}",
    )


def check_scrapes(prometheus: Prometheus, job: str, server: Server) -> None:
    """Checks that the target was up all the time, and that each line of the text became a sample."""
    target = prometheus.target(job)
    check((target["health"], target["lastError"]) == ("up", ""), f"{target}")
    check(prometheus.value(f'min_over_time(up{{job="{job}"}}[1h])') == 1, f"{job} was down for a while")
    accept = OLDER if job == "older" else OPEN_METRICS
    text, content_type = metrics(server, accept)
    check(content_type.startswith(accept.partition(";")[0]), content_type)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for scraped in ("scrape_samples_scraped", "scrape_samples_post_metric_relabeling"):
        value = prometheus.value(f'{scraped}{{job="{job}"}}')
        check(value == len(lines), f"{scraped} of {job}: {value} of {len(lines)} lines")


def queries(panels: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields the title of each panel with each of its expressions, also in collapsed rows."""
    for panel in panels:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
        yield from queries(panel.get("panels", ()))


def dashboard(options: argparse.Namespace, tally: Tally) -> None:
    board = json.loads(DASHBOARD.read_text())
    with servers(options.server) as (server, _, prometheus):
        wholes(server)
        refusals(server)
        # A rate needs two scrapes.
        prometheus.wait_for_scrapes("rendezvous", 3)
        choices = {"$__rate_interval": "30s", "$__range": "1m", "$job": "rendezvous|short|node", "$instance": ".*"}
        for title, expression in queries(board["panels"]):
            with tally.trial(f"{title}: {expression}"):
                for name, choice in choices.items():
                    expression = expression.replace(name, choice)
                check("$" not in expression, f"a variable remains in {expression}")
                check(bool(prometheus.query(expression)), f"no result for {expression}")
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                with tally.trial(f"the choices of {variable['name']}"):
                    pattern = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                    check(pattern is not None, f"{variable['query']}")
                    assert pattern
                    selector = pattern[1].replace("$job", "rendezvous")
                    values = prometheus.api(f"label/{pattern[2]}/values", **{"match[]": selector})
                    check(bool(values), f"no choices by {pattern[0]}")


def alerts(options: argparse.Namespace, tally: Tally) -> None:
    with tally.trial("the rules are valid"):
        promtool("check", "rules", ALERTS)
    with tally.trial("they fire when they should"):
        promtool("test", "rules", ALERTS_TEST)
    with servers(options.server) as (server, _, prometheus):
        wholes(server)
        prometheus.wait_for_scrapes("rendezvous", 1)

        def rules() -> list[dict[str, Any]]:
            return [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]

        found = wait_until(rules, lambda rules: all(rule["health"] != "unknown" for rule in rules), "evaluations")
        for rule in found:
            with tally.trial(rule["name"]):
                check((rule["health"], rule["state"]) == ("ok", "inactive"), f"{rule}")
        check(bool(found), "there are no rules")


TESTS: Mapping[str, Test] = {"numbers": numbers, "dashboard": dashboard, "alerts": alerts}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    add_packages_argument(parser)
    packages = Packages(parser.parse_args().packages)
    packages.provide(("prometheus",))
    os.environ["PATH"] = packages.path()
    return run_all(parser, TESTS, "prometheus", "promtool", "curl", "openssl")


if __name__ == "__main__":
    sys.exit(main())
