#!/usr/bin/env python3
"""TLS as clients see it (Linux, openssl; `bulk` unpacks nginx where it is not installed).

    versions  TLS 1.2 and 1.3 are accepted, 1.0 and 1.1 are refused
    reload    the server loads another certificate, on SIGHUP and by itself, while a stream runs; it keeps the old one if the new is broken
    hasty     a client that closes with the last byte, without waiting for close_notify, has received everything
    bulk      CPU for each byte through TLS 1.3 on both sides, beside nginx that proxies the same bytes

bulk asserts that all bytes arrive and that both use the same version and cipher. It prints the figures without a bound on them.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness import (
    GIB,
    LAST_CHUNK,
    LOOPBACK,
    MIB,
    PATIENCE,
    Pair,
    Process,
    Server,
    Tally,
    Test,
    accepts,
    check,
    child,
    chunk,
    cpu_seconds,
    framing,
    free_port,
    head,
    new_pair,
    new_parser,
    output_of,
    run_all,
    serving,
    wait_until,
)
from packages import Packages, add_packages_argument

# Without these options a current OpenSSL refuses old versions itself. Here the server must do it.
LENIENT = ("-cipher", "DEFAULT:@SECLEVEL=0")
OLD_REFUSED = ("alert protocol version", "alert handshake failure")

RELOAD_AT_ONCE = 2.0  # seconds after a SIGHUP
RELOAD_BY_ITSELF = 10.0  # seconds after the files have changed
TRICKLE = 0.05  # seconds between two bytes of the stream that runs meanwhile
KEPT = b"the old certificate stays"  # the log line for a broken pair

HASTY_SIZES = (1, 1000, 16 * 1024, 100_000)

BULK_CIPHER = "TLS_AES_128_GCM_SHA256"
BULK_BLOCK = MIB
BULK_PATIENCE = 300.0
NGINX_WORKERS = 2
CLIENT_BUSY_AT_MOST = 0.9  # of a core; a busier client would be the bottleneck


# --------------------------------------------------------------------------------------------- versions


def test_versions(options: argparse.Namespace, tally: Tally) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(options.server, pair=new_pair(directory, "versions")))
        for version, spoken in (("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")):
            with tally.trial(version):
                code, output = s_client(server, version, "-brief")
                check(code == 0 and f"Protocol version: {spoken}" in output, f"exit {code}: {output[-500:]}")
        for version in ("-tls1_1", "-tls1"):
            with tally.trial(version):
                code, output = s_client(server, version, *LENIENT)
                refused = code != 0 and any(alert in output for alert in OLD_REFUSED)
                check(refused, f"exit {code}: {output[-500:]}")
        with tally.trial("it still serves"):
            check(server.request("GET", "/ping") == (200, b"pong"), "no")


def s_client(server: Server, *options: str) -> tuple[int, str]:
    """Does a handshake only. Returns the exit code and the output of openssl."""
    command = ("openssl", "s_client", "-connect", f"{LOOPBACK}:{server.tls_port}", *options)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


# ----------------------------------------------------------------------------------------------- reload


def test_reload(options: argparse.Namespace, tally: Tally) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = directory / "log"
        pairs = [new_pair(directory / name, name) for name in ("first", "second", "third", "fourth")]
        first, second, third, fourth = (fingerprint_of(pair) for pair in pairs)
        files = new_pair(directory, "served")
        install(files, pairs[0])
        server = stack.enter_context(serving(options.server, pair=files, stderr=stack.enter_context(log.open("ab"))))
        trickle = stack.enter_context(Trickle(server, pairs[0]))
        with tally.trial("the first certificate"):
            check(fingerprint(server) == first, "it is not the configured one")

        with tally.trial("SIGHUP"):
            # With the old modification times, so that only the signal makes the server load them.
            install(files, pairs[1], as_old=True)
            os.kill(server.pid, signal.SIGHUP)
            tally.notes.append(f"on SIGHUP after {until_served(server, second, RELOAD_AT_ONCE):.1f} s")

        for name, spoil in BROKEN.items():
            with tally.trial(name):
                log.write_bytes(b"")
                spoil(files, pairs[2])
                os.kill(server.pid, signal.SIGHUP)
                wait_until(log.read_bytes, lambda logged: KEPT in logged, "it is logged")
                check(fingerprint(server) == second, "a broken pair was taken up")

        with tally.trial("without a signal"):
            install(files, pairs[2])
            tally.notes.append(f"by itself after {until_served(server, third, RELOAD_BY_ITSELF):.1f} s")
        with tally.trial("links that are turned"):
            turn_links(files, pairs[3])
            tally.notes.append(f"links after {until_served(server, fourth, RELOAD_BY_ITSELF):.1f} s")
        with tally.trial("the stream that ran on"):
            tally.notes.append(f"{trickle.finish()} bytes trickled through meanwhile")


def fingerprint_of(pair: Pair) -> str:
    return x509(pair.certificate.read_text())


def fingerprint(server: Server) -> str:
    """The fingerprint of the certificate that a new connection gets."""
    return x509(s_client(server)[1])


def x509(text: str) -> str:
    command = ("openssl", "x509", "-noout", "-fingerprint", "-sha256")
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=PATIENCE, check=False)
    check(done.returncode == 0, f"no certificate: {text[-300:]}")
    return done.stdout.decode().strip()


def until_served(server: Server, expected: str, limit: float) -> float:
    began = time.monotonic()
    while fingerprint(server) != expected:
        check(time.monotonic() - began < limit, f"the new certificate is not served within {limit:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def install(files: Pair, pair: Pair, as_old: bool = False) -> None:
    """Replaces each file atomically."""
    for target, source in ((files.certificate, pair.certificate), (files.key, pair.key)):
        fresh = target.with_suffix(".new")
        shutil.copyfile(source, fresh)
        if as_old:
            before = target.stat()
            os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        fresh.replace(target)


def turn_links(files: Pair, pair: Pair) -> None:
    """Points symbolic links at the new files, as certbot does."""
    for target, source in ((files.certificate, pair.certificate), (files.key, pair.key)):
        fresh = target.with_suffix(".new")
        fresh.symlink_to(source)
        fresh.replace(target)


def spoil_certificate(files: Pair, _: Pair) -> None:
    files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")


def spoil_match(files: Pair, other: Pair) -> None:
    """The certificate is valid, but for another key."""
    shutil.copyfile(other.certificate, files.certificate)


def remove_key(files: Pair, _: Pair) -> None:
    files.key.unlink()


def empty_both(files: Pair, _: Pair) -> None:
    files.certificate.write_bytes(b"")
    files.key.write_bytes(b"")


BROKEN: dict[str, Callable[[Pair, Pair], None]] = {
    "a certificate without content": spoil_certificate,
    "a certificate of another key": spoil_match,
    "a missing key": remove_key,
    "empty files": empty_both,
}


def secure(port: int, pair: Pair) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(pair.certificate))
    connection = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
    return context.wrap_socket(connection, server_hostname=LOOPBACK)


class Trickle:
    """A stream over TLS that carries a byte now and then until it is finished."""

    def __init__(self, server: Server, pair: Pair) -> None:
        self._put, self._get = secure(server.tls_port, pair), secure(server.tls_port, pair)
        path = f"/stream/{server.new_stream()}"
        self._put.sendall(head("PUT", path, framing(None)))
        self._get.sendall(head("GET", path))
        self._stop = threading.Event()
        self._sent = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Trickle":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._put.close()
        self._get.close()

    def _run(self) -> None:
        try:
            self._pass_on()
        except Exception as failure:  # finish() raises it
            self._failure = failure

    def _pass_on(self) -> None:
        """Sends each byte only after the one before has arrived."""
        received = bytearray()
        while not self._stop.wait(TRICKLE):
            byte = bytes((0x61 + self._sent % 26,))
            self._put.sendall(chunk(byte))
            self._sent += 1
            while not received.endswith(chunk(byte)):
                more = self._get.recv(65536)
                check(bool(more), f"the download was cut after {self._sent} bytes")
                received += more

    def finish(self) -> int:
        """Ends the stream well. Returns the number of bytes that went through."""
        self._stop.set()
        self._thread.join(PATIENCE)
        if self._failure:
            raise self._failure
        self._put.sendall(LAST_CHUNK)
        end = self._get.recv(65536)
        check(end == LAST_CHUNK, f"the download ended with {end!r}")
        answer = self._put.recv(65536)
        check(answer.startswith(b"HTTP/1.1 200 "), f"the response to the PUT is {answer[:200]!r}")
        return self._sent


# ------------------------------------------------------------------------------------------------ hasty


def test_hasty(options: argparse.Namespace, tally: Tally) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pair = new_pair(Path(directory), "hasty")
        with serving(options.server, pair=pair) as server:
            for number in range(options.count):
                size = HASTY_SIZES[number % len(HASTY_SIZES)]
                with tally.trial(f"number {number} with {size} bytes"):
                    leave_with_the_last_byte(server, pair, size)


def leave_with_the_last_byte(server: Server, pair: Pair, size: int) -> None:
    stream = server.new_stream()
    path = f"/stream/{stream}"
    with secure(server.tls_port, pair) as put:
        with secure(server.tls_port, pair) as get:
            get.sendall(head("GET", path))
            put.sendall(head("PUT", path, framing(size)) + bytes(size))
            received = swallow(get)
        check(received == size, f"{received} bytes arrived")
        answer = put.recv(65536)
        check(
            answer.startswith(b"HTTP/1.1 200 "), f"every byte arrived, but the response to the PUT is {answer[:30]!r}"
        )


# ------------------------------------------------------------------------------------------------- bulk


@dataclass(frozen=True)
class Round:
    """The cost of a number of bytes in one relay, and in the clients that sent and read them."""

    relay_cpu: float
    seconds: float
    size: int
    clients_cpu: float
    busiest_client: float  # its CPU seconds
    spoken: tuple[str, ...]

    def per_gib(self) -> float:
        return self.relay_cpu / (self.size / GIB)


def test_bulk(options: argparse.Namespace, tally: Tally) -> None:
    packages = Packages(options.packages)
    packages.provide(("nginx",))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)  # nginx's workers may run as another user
        # This configures the clients, the upstream and both sides of nginx. rustls takes its client's preference.
        stack.enter_context(environment(OPENSSL_CONF=str(write_openssl_conf(directory))))
        pair = new_pair(directory, "bulk")
        server = stack.enter_context(serving(options.server, pair=pair))
        sink_port = free_port()
        nginx = stack.enter_context(nginx_serving(str(packages.program("nginx")), directory, pair, sink_port))
        relays: dict[str, Callable[[], Round]] = {
            "rendezvous": lambda: through_rendezvous(server, pair, options),
            "nginx": lambda: through_nginx(nginx, sink_port, pair, options),
        }
        rounds: dict[str, list[Round]] = {name: [] for name in relays}
        for number in range(options.rounds + 1):
            for name in sorted(relays, reverse=number % 2 == 1):
                with tally.trial(f"{name}, round {number}"):
                    seen = relays[name]()
                    check(
                        seen.busiest_client < CLIENT_BUSY_AT_MOST * seen.seconds,
                        f"a client is the bottleneck: {seen}",
                    )
                    warm_up = number == 0
                    print(f"  {name}{' (to warm up)' if warm_up else ''}: {describe(seen)}", flush=True)
                    if not warm_up:
                        rounds[name].append(seen)
        spoken = {what for each in rounds.values() for one in each for what in one.spoken}
        with tally.trial("both use the same version and cipher"):
            check(len(spoken) == 1 and "TLSv1.3" in next(iter(spoken)), f"spoken: {sorted(spoken)}")
        medians = {name: median(one.per_gib() for one in each) for name, each in rounds.items()}
        tally.notes.append(f"{', '.join(sorted(spoken))}")
        tally.notes.append(f"medians of {options.rounds} rounds of {options.streams} x {options.size} bytes")
        tally.notes.extend(f"{name} {cpu:.3f} CPU s/GiB" for name, cpu in medians.items())
        tally.notes.append(f"ratio {medians['rendezvous'] / medians['nginx']:.2f}")


def describe(seen: Round) -> str:
    rate = seen.size / GIB / seen.seconds
    loads = f"relay {seen.relay_cpu / seen.seconds:.2f}, clients {seen.clients_cpu / seen.seconds:.2f} cores"
    return f"{seen.per_gib():.3f} CPU s/GiB, {rate:.2f} GiB/s, {loads}"


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_openssl_conf(directory: Path) -> Path:
    path = directory / "openssl.cnf"
    path.write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = only\n[only]\n"
        f"MinProtocol = TLSv1.3\nCiphersuites = {BULK_CIPHER}\n"
        # `openssl req` requires these.
        "[req]\ndistinguished_name = dn\n[dn]\n"
    )
    return path


NGINX_CONF = """
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    server {{
        listen {port_of} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass https://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_ssl_protocols TLSv1.3;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    pid: int
    port: int

    def cpu(self) -> float:
        """CPU of its workers. The master does nothing."""
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        check(len(workers) == NGINX_WORKERS, f"nginx has {len(workers)} workers")
        return sum(cpu_seconds(int(worker)) for worker in workers)


@contextmanager
def nginx_serving(program: str, directory: Path, pair: Pair, upstream: int) -> Iterator[Nginx]:
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(
            workers=NGINX_WORKERS,
            directory=directory,
            buffer="16k",
            port_of=f"{LOOPBACK}:{port}",
            certificate=pair.certificate,
            key=pair.key,
            upstream=upstream,
        )
    )
    with child(program, "-e", "stderr", "-p", directory, "-c", conf) as master:
        nginx = Nginx(master.pid, port)
        try:
            wait_until(lambda: accepts(port), bool, "nginx listens")
            yield nginx
            check(master.poll() is None, f"nginx ended by itself with {master.returncode}")
        finally:
            master.terminate()  # SIGKILL of the master would leave its workers running
            master.wait(PATIENCE)


def through_rendezvous(server: Server, pair: Pair, options: argparse.Namespace) -> Round:
    streams = [f"/stream/{server.new_stream()}" for _ in range(options.streams)]
    with ExitStack() as stack:
        sinks = []
        for path in streams:
            sinks.append(stack.enter_context(client("fetch", server.tls_port, path, options.size, pair)))
            server.wait_for_state(path.rpartition("/")[2], "DST_CONNECTED")
        return measure(server.cpu, server.tls_port, streams, sinks, pair, options)


def through_nginx(nginx: Nginx, sink_port: int, pair: Pair, options: argparse.Namespace) -> Round:
    """The upstream reads what nginx proxies: a process with a thread for each stream of the round."""
    with ExitStack() as stack:
        paths = ["/stream/x"] * options.streams
        sink = stack.enter_context(client("swallow", sink_port, str(options.streams), options.size, pair))
        wait_until(lambda: accepts_quietly(sink), bool, "the upstream listens")
        return measure(nginx.cpu, nginx.port, paths, [sink], pair, options)


def accepts_quietly(sink: Process) -> bool:
    """Its first line reports that it listens. A connection would take the place of one from nginx."""
    return output_of(sink).readline() == b"listening\n"


def measure(
    cpu: Callable[[], float],
    port: int,
    paths: list[str],
    sinks: list[Process],
    pair: Pair,
    options: argparse.Namespace,
) -> Round:
    before, began = cpu(), time.monotonic()
    with ExitStack() as stack:
        sources = [stack.enter_context(client("send", port, path, options.size, pair)) for path in paths]
        reports = [json.loads(process.communicate(timeout=BULK_PATIENCE)[0]) for process in (*sources, *sinks)]
    seconds, used = time.monotonic() - began, cpu() - before
    size = options.streams * options.size
    received = sum(report["bytes"] for report in reports[len(sources) :])
    check(received == size, f"{received} of {size} bytes arrived")
    return Round(
        relay_cpu=used,
        seconds=seconds,
        size=size,
        clients_cpu=sum(report["cpu"] for report in reports),
        busiest_client=max(report["cpu"] for report in reports),
        spoken=tuple({what for report in reports for what in report["spoken"]}),
    )


@contextmanager
def client(role: str, port: int, path: str, size: int, pair: Pair) -> Iterator[Process]:
    """Runs this script as a process that only sends or reads, so that no client waits for the interpreter of another."""
    files = (str(pair.certificate), str(pair.key))
    command = (sys.executable, __file__, role, str(port), path, str(size), *files)
    with child(*command, stdout=subprocess.PIPE) as process:
        yield process


def play(role: str, port: int, path: str, size: int, pair: Pair) -> dict[str, object]:
    """The work of such a process. Returns its report."""
    spoken: set[str] = set()
    if role == "swallow":
        received = swallow_all(port, int(path), pair, spoken)
    else:
        with secure(port, pair) as connection:
            spoken.add(speaks(connection))
            received = send(connection, path, size) if role == "send" else fetch(connection, path)
    used = time.process_time()
    return {"bytes": received, "cpu": used, "spoken": sorted(spoken)}


def speaks(connection: ssl.SSLSocket) -> str:
    cipher = connection.cipher()
    return f"{connection.version()} {cipher[0] if cipher else ''}"


def send(connection: ssl.SSLSocket, path: str, size: int) -> int:
    connection.sendall(head("PUT", path, framing(size)))
    block = memoryview(os.urandom(BULK_BLOCK))
    connection.settimeout(BULK_PATIENCE)
    for start in range(0, size, BULK_BLOCK):
        connection.sendall(block[: size - start])
    answer = connection.recv(65536)
    check(answer.startswith(b"HTTP/1.1 200 "), f"the response to the PUT is {answer[:200]!r}")
    return size


def fetch(connection: ssl.SSLSocket, path: str) -> int:
    """Reads to the end of TLS, so that nothing is left unread."""
    connection.sendall(head("GET", path, "Connection: close"))
    received = swallow(connection)
    check(connection.recv(1) == b"", "more bytes than Content-Length")
    return received


def swallow(connection: ssl.SSLSocket) -> int:
    """Reads one message with a Content-Length. Returns the length of its body."""
    connection.settimeout(BULK_PATIENCE)
    begun = b""
    while b"\r\n\r\n" not in begun:
        more = connection.recv(65536)
        check(bool(more), f"no head: {begun[:200]!r}")
        begun += more
    lines, _, body = begun.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines.split(b"\r\n")[1:])
    length, received = int(fields[b"content-length"]), len(body)
    buffer = bytearray(BULK_BLOCK)
    while received < length and (count := connection.recv_into(buffer)):
        received += count
    return received


def swallow_all(port: int, streams: int, pair: Pair, spoken: set[str]) -> int:
    """A minimal upstream, which reads and discards."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    received = []

    def take(accepted: socket.socket) -> None:
        with context.wrap_socket(accepted, server_side=True) as connection:
            spoken.add(speaks(connection))
            received.append(swallow(connection))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server((LOOPBACK, port), backlog=streams) as listener:
        print("listening", flush=True)
        threads = [threading.Thread(target=take, args=(listener.accept()[0],)) for _ in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(received)


# -------------------------------------------------------------------------------------------------- main

TESTS: dict[str, Test] = {
    "versions": test_versions,
    "reload": test_reload,
    "hasty": test_hasty,
    "bulk": test_bulk,
}
ROLES = ("send", "fetch", "swallow")


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        role, port, path, size, certificate, key = sys.argv[1:]
        print(json.dumps(play(role, int(port), path, int(size), Pair(Path(certificate), Path(key)))))
        return 0
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="hasty: number of transfers")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="bulk: rounds of each relay")
    parser.add_argument("--streams", type=int, default=2, metavar="N", help="bulk: streams at the same time")
    parser.add_argument("--size", type=int, default=GIB, metavar="BYTES", help="bulk: size of each stream")
    add_packages_argument(parser)
    return run_all(parser, TESTS, "openssl")


if __name__ == "__main__":
    sys.exit(main())
