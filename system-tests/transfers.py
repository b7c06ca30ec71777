#!/usr/bin/env python3
"""`rendezvous send` and `recv` (Linux, iproute2, curl, tar; the Python package `cryptography`).

    whole    files, a tree, a pipe and names of all kinds arrive as they are, in little memory
    faults   the relay is killed, links are cut, clients are stopped for a minute: each transfer goes on by itself and completes
    stored   receivers are killed at random moments: `send -` says stored only if it is
    small    20 000 small files, beside `tar | curl | tar`
    speed    a large file, beside `age | curl`
    nginx    a file of 200 MiB, through nginx with its defaults
    age      a receiver in Python: the `age` of Debian opens a segment of `send` and a control message of `recv`

`faults` needs root, or the right to make user namespaces, and prints SKIPPED without either, which --must-run makes a failure.
`small` and `speed` print ratios, and fail below the bounds of --strict only with it. --quick uses smaller files and fewer transfers.
"""

import argparse
import base64
import filecmp
import hashlib
import hmac
import json
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from harness import (
    CURL,
    GIB,
    LOOPBACK,
    MIB,
    PATIENCE,
    Tally,
    Test,
    check,
    child,
    free_port,
    greeted_port,
    new_parser,
    output_of,
    run_all,
    serving,
    wait_until,
    write_random,
)
from network import Host, Router, become_a_host, closing
from packages import Packages

KEPT = 64 * MIB  # the memory of a client, without its replay buffer
REPLAY = 64 * MIB
TRANSFERS, LANES = 200, 8
FAULT_SIZE = 24 * MIB
FAULT_RATE = "2m"  # of the relay: a transfer lasts long enough for a fault
STOPPED, BRIEFLY = 60.0, 5.0
# A segment that waits for its receiver lapses after so many seconds, and so many bytes of it may have left the host.
LAPSE, LAPSED = 8.0, 2 * MIB
KILLS = 100
LIMIT = 600.0  # seconds for any transfer


# --------------------------------------------------------------------------------------------------- clients


@dataclass
class Client:
    """A running `send` or `recv`, and the JSON lines that it has printed."""

    process: subprocess.Popen[bytes]
    meter: Callable[[], int] | None = None  # read at each event
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in output_of(self.process):
            event = json.loads(line)
            if self.meter:
                event["meter"] = self.meter()
            self.events.append(event)

    def last(self, event: str) -> dict[str, Any] | None:
        return next((line for line in reversed(self.events) if line["event"] == event), None)

    def link(self) -> str:
        line = wait_until(lambda: self.last("link") or self.last("end"), lambda line: line is not None, "a link")
        check(line is not None and "link" in line, f"send ended instead of printing a link: {line}")
        return str(line["link"]) if line else ""

    def position(self) -> int:
        """How much it has sent, or received."""
        last = self.last("sent") or self.last("received")
        return int(last["bytes"]) if last else 0

    def end(self) -> dict[str, Any]:
        """Waits for its end."""
        self.process.wait(LIMIT)
        self._reader.join(PATIENCE)
        ended = self.last("end")
        check(ended is not None, f"{self.process.args!r} ended with {self.process.returncode} and no event")
        return ended or {}


def environment(folder: Path) -> dict[str, str]:
    """No setting of the caller, and a state folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RENDEZVOUS_")}
    return kept | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state")}


@contextmanager
def client(program: str, folder: Path, *arguments: str | Path, **how: Any) -> Iterator[Client]:
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | how
    with child(program, arguments[0], "--json", *arguments[1:], env=environment(folder), cwd=folder, **options) as process:
        yield Client(process)


def transfer(program: str, relay: str, folder: Path, *source: str | Path, target: Path, **how: Any) -> tuple[Client, Client]:
    """Sends and receives once. Both must end well."""
    with client(program, folder, "send", "--to", relay, *source, **how) as sender:
        with client(program, folder, "recv", sender.link(), "-o", target) as receiver:
            got, sent = receiver.end(), sender.end()
    check(got["code"] == 0 and sent["code"] == 0, f"sender {sent}, receiver {got}")
    return sender, receiver


def sha256_of(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def listing(tree: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and content of everything in a tree. The time of a link is not sent."""
    found: dict[str, tuple[int, int, str]] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(tree))] = (0, 0, "-> " + os.readlink(path))
        else:
            content = sha256_of(path) if path.is_file() else "directory"
            found[str(path.relative_to(tree))] = (status.st_mode & 0o777, int(status.st_mtime), content)
    return found


def small_files(tree: Path, count: int, chance: random.Random) -> None:
    """Files of 1 to 4096 bytes, some hundred in a directory."""
    for number in range(count):
        directory = tree / f"d{number // 200}"
        if number % 200 == 0:
            directory.mkdir(parents=True)
        file = directory / f"file-{number}"
        file.write_bytes(chance.randbytes(chance.randrange(1, 4096)))
        os.utime(file, (1_600_000_000 + number, 1_600_000_000 + number))


# ----------------------------------------------------------------------------------------------------- whole

NAMES = (
    "two words",
    "it's \"quoted\"",
    "line\nbreak",
    "tab\there",
    "grüße-日本語-🎉",
    "-starts-with-a-hyphen",
    "back\\slash",
    "percent%20and#hash?",
    "a" * 200,
    "déjà" + "́",
)


def whole(options: argparse.Namespace, tally: Tally) -> None:
    program = options.server[0]
    small = options.quick
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, serving(options.server) as server:
        folder, relay = Path(name), f"http://{LOOPBACK}:{server.port}"
        for label, size in (("empty", 0), ("one byte", 1), ("4 GiB", 4 * GIB if not small else 32 * MIB)):
            with tally.trial(f"a file, {label}"):
                file, target = folder / "file", folder / "got"
                digest = write_random(file, size)
                file.chmod(0o640)
                os.utime(file, (1_500_000_000, 1_500_000_000))
                before = peak_of_children()
                transfer(program, relay, folder, file, target=target)
                check(sha256_of(target) == digest, "other bytes")
                status = target.stat()
                check((status.st_mode & 0o777, int(status.st_mtime)) == (0o640, 1_500_000_000), f"{status}")
                check(max(peak_of_children(), before) <= KEPT, f"a client took {peak_of_children() >> 20} MiB")
                target.unlink()
                file.unlink()
        tally.notes.append(f"files: at most {peak_of_children() >> 20} MiB a client")
        with tally.trial("a pipe"):
            size = 10 * GIB if not small else 96 * MIB
            zeros = f"head -c {size} /dev/zero"
            with child("sh", "-c", zeros, stdout=subprocess.PIPE) as producer:
                transfer(program, relay, folder, "-", target=folder / "zeros", stdin=output_of(producer))
            zero = hashlib.sha256()
            for _ in range(size // MIB):
                zero.update(bytes(MIB))
            check(sha256_of(folder / "zeros") == zero.hexdigest(), "other bytes")
            (folder / "zeros").unlink()
            check(peak_of_children() <= KEPT + REPLAY, f"a client took {peak_of_children() >> 20} MiB")
            tally.notes.append(f"pipe: at most {peak_of_children() >> 20} MiB")
        with tally.trial("a tree"):
            tree = folder / "tree"
            small_files(tree, 20_000 if not small else 1000, random.Random(options.seed))
            transfer(program, relay, folder, tree, target=folder / "tree-got")
            check(listing(tree) == listing(folder / "tree-got"), "another tree")
        with tally.trial("names"):
            tree = folder / "names"
            tree.mkdir()
            for number, odd in enumerate(NAMES):
                (tree / odd).write_text(odd)
                (tree / odd).chmod((0o600, 0o644, 0o755)[number % 3])
            (tree / "sub").mkdir(mode=0o700)
            (tree / "sub" / "link").symlink_to("../two words")
            (tree / "empty").mkdir()
            os.utime(tree / "empty", (1_400_000_000, 1_400_000_000))
            transfer(program, relay, folder, tree, target=folder / "names-got")
            check(listing(tree) == listing(folder / "names-got"), "another tree")
        for odd in NAMES:
            with tally.trial(f"the name {odd!r}"):
                file = folder / odd
                file.write_text(odd)
                into = folder / "into"
                into.mkdir()
                _, receiver = transfer(program, relay, folder, "--", f"./{odd}", target=into)
                (got,) = into.iterdir()
                check(got.read_text() == odd, "other bytes")
                shutil.rmtree(into)
                file.unlink()


def peak_of_children() -> int:
    """The most memory that any ended child has taken, in bytes. It only grows."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


# ---------------------------------------------------------------------------------------------------- faults


class Relay:
    """A relay that is killed and started again at its port."""

    def __init__(self, server: tuple[str, ...], address: str) -> None:
        self._command = (*server, "serve", "--host", address, "--log-level", "error", "--max-stream-rate", FAULT_RATE)
        self._address = address
        self.port = 0
        self.start()

    def start(self) -> None:
        options = {"stdout": subprocess.PIPE, "env": environment(Path("/nonexistent"))}
        self._process = subprocess.Popen((*self._command, "--port", str(self.port)), **options)
        self.port = greeted_port(self._process, f"http://{self._address}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> None:
        self.kill()


@dataclass
class Lane:
    """A relay and two hosts, for one transfer at a time."""

    relay: Relay
    sending: Host
    receiving: Host
    chance: random.Random
    folder: Path
    stopped: float  # how long a client is stopped

    def end(self) -> None:
        for part in (self.relay, self.sending, self.receiving):
            part.end()


def bytes_sent(host: Host) -> int:
    """Bytes that the host has sent since it exists."""
    lines = Path(f"/proc/{host.space.pid}/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("eth0:")]
    return int(line.split()[9])


def kill_relay(lane: Lane, _sender: Client, _receiver: Client) -> None:
    for _ in range(lane.chance.randint(1, 3)):
        lane.relay.kill()
        time.sleep(lane.chance.uniform(0.1, 5))
        lane.relay.start()
        time.sleep(lane.chance.uniform(0.5, 3))


def cut_sender(lane: Lane, _sender: Client, _receiver: Client) -> None:
    cut(lane, lane.sending)


def cut_receiver(lane: Lane, _sender: Client, _receiver: Client) -> None:
    cut(lane, lane.receiving)


def cut(lane: Lane, host: Host) -> None:
    host.cut()
    time.sleep(lane.chance.uniform(2, 30))
    host.repair()


def stop_sender(lane: Lane, sender: Client, _receiver: Client) -> None:
    stop(lane, sender)


def stop_receiver(lane: Lane, _sender: Client, receiver: Client) -> None:
    stop(lane, receiver)


def stop(lane: Lane, one: Client) -> None:
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(lane.stopped)
    one.process.send_signal(signal.SIGCONT)


FAULTS = (kill_relay, cut_sender, cut_receiver, stop_sender, stop_receiver)


def source_of(lane: Lane, number: int, size: int) -> tuple[Path, list[str], dict[str, Any]]:
    """A file, a tree or a pipe with random bytes: where they are, the arguments of send, and how it is started."""
    kind = ("file", "tree", "pipe")[number % 3]
    path = lane.folder / f"source-{number}"
    if kind == "tree":
        path.mkdir()
        for part in range(8):
            write_random(path / f"part {part}", size // 8)
        return path, [str(path)], {}
    write_random(path, size)
    if kind == "file":
        return path, [str(path)], {}
    return path, ["-"], {"stdin": path.open("rb")}


def one_fault(program: str, lane: Lane, number: int, size: int) -> float:
    """A transfer with a fault in its middle. Returns how many MiB the fault lost, which were sent again."""
    fault = FAULTS[number % len(FAULTS)]
    path, source, how = source_of(lane, number, size)
    target = lane.folder / f"target-{number}"
    relay = f"http://{lane.sending.server}:{lane.relay.port}"
    before = bytes_sent(lane.sending)
    with lane.sending.space.inside():
        sending = subprocess.Popen(
            (program, "send", *source, "--to", relay, "--json"),
            **({"stdin": subprocess.DEVNULL} | how), stdout=subprocess.PIPE, env=environment(lane.folder),
        )
    sender = Client(sending, lambda: bytes_sent(lane.sending))
    try:
        link = sender.link()
        with lane.receiving.space.inside():
            receiving = subprocess.Popen(
                (program, "recv", link, "-o", str(target), "--json"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(lane.folder), cwd=lane.folder,
            )
        receiver = Client(receiving)
        try:
            at = lane.chance.uniform(0, 1) * size
            while receiver.position() < at and sending.poll() is None:
                time.sleep(0.05)
            begun = time.monotonic()
            fault(lane, sender, receiver)
            lapses = (time.monotonic() - begun) / LAPSE
            got, sent = receiver.end(), sender.end()
        finally:
            receiving.kill()
            receiving.communicate()
    finally:
        sending.kill()
        sending.communicate()
    check(got["code"] == 0 and sent["code"] == 0, f"{fault.__name__}: sender {sent}, receiver {got}")
    same = listing(path) == listing(target) if path.is_dir() else filecmp.cmp(path, target, shallow=False)
    check(same, f"{fault.__name__}: other bytes")
    asked = [(int(ask["offset"]), int(ask["meter"])) for ask in sender.events if ask["event"] == "asked"]
    held = [int(event["offset"]) for event in receiver.events if event["event"] == "resumed"]
    check(not held, f"{fault.__name__}: the receiver began anew at {held}")
    # What had left the host, and was not behind what the receiver asked for next.
    lost = sum(after - before - (to - since) for (since, before), (to, after) in pairwise(asked))
    surplus = bytes_sent(lane.sending) - before - size
    # The framing of TCP and age, control messages and retries take some percent.
    allowed = 2 * lost + lapses * LAPSED + size * 0.06 + MIB
    check(surplus <= allowed, f"{fault.__name__}: {surplus / MIB:.1f} MiB too many, lost {lost / MIB:.1f}")
    for used in (path, target):
        shutil.rmtree(used) if used.is_dir() else used.unlink()
    return lost / MIB


def faults(options: argparse.Namespace, tally: Tally) -> None:
    try:
        become_a_host()
    except OSError as error:
        if options.must_run:
            raise
        print(f"faults: SKIPPED: {error}")
        return
    transfers, size = (2 * LANES, FAULT_SIZE // 4) if options.quick else (options.transfers, FAULT_SIZE)
    program = options.server[0]
    numbers = iter(range(transfers))
    turn = threading.Lock()
    lost: list[float] = []

    def run_lane(lane: Lane) -> None:
        while True:
            with turn:
                number = next(numbers, None)
            if number is None:
                return
            with tally.trial(f"transfer {number}"):
                lost.append(one_fault(program, lane, number, size))

    with tempfile.TemporaryDirectory(prefix="transfers-") as name, closing(Router()) as router:
        lanes = [new_lane(options, router, Path(name), number) for number in range(LANES)]
        try:
            with ThreadPoolExecutor(LANES) as pool:
                list(pool.map(run_lane, lanes))
        finally:
            for lane in lanes:
                lane.end()
    if lost:
        tally.notes.append(f"lost and sent again: median {median(lost):.1f} MiB, most {max(lost):.1f}")


def new_lane(options: argparse.Namespace, router: Router, folder: Path, number: int) -> Lane:
    own = folder / f"lane-{number}"
    own.mkdir()
    chance = random.Random(options.seed * 1000 + number)
    stopped = BRIEFLY if options.quick else STOPPED
    return Lane(Relay(options.server, router.server), router.host(), router.host(), chance, own, stopped)


# ---------------------------------------------------------------------------------------------------- stored


def stored(options: argparse.Namespace, tally: Tally) -> None:
    chance = random.Random(options.seed)
    program = options.server[0]
    said = 0
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, serving(options.server) as server:
        folder, relay = Path(name), f"http://{LOOPBACK}:{server.port}"
        source = folder / "source"
        digest = write_random(source, 8 * MIB)
        script = f'cat "$1" | "$2" send - --json --give-up 1s --to {relay} && echo \'{{"event":"stored"}}\''
        for number in range(KILLS // 5 if options.quick else KILLS):
            target = folder / f"target-{number}"
            with tally.trial(f"kill {number}"):
                command = ("sh", "-c", script, "sh", str(source), program)
                with child(*command, stdout=subprocess.PIPE, env=environment(folder)) as shell:
                    sender = Client(shell)
                    with client(program, folder, "recv", sender.link(), "-o", target) as receiver:
                        with suppress(subprocess.TimeoutExpired):
                            receiver.process.wait(chance.uniform(0, 1.5))
                        receiver.process.kill()
                    shell.wait(LIMIT)
                    sender._reader.join(PATIENCE)
                    if sender.last("stored"):
                        said += 1
                        check(target.exists(), "it says stored, and there is no file")
                        check(sha256_of(target) == digest, "it says stored, and the file has other bytes")
            with suppress(FileNotFoundError):
                target.unlink()
    tally.notes.append(f"{said} times stored")


# ------------------------------------------------------------------------------------------- small and speed


def timed(command: str, *arguments: str | Path, folder: Path) -> tuple[float, float]:
    """Runs a shell script. Returns its seconds, and the CPU seconds of all its processes."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(("sh", "-ec", command, "sh", *map(str, arguments)), check=True, env=environment(folder), cwd=folder)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


SEND_RECV = '"$1" send "$2" --to "$3" --quiet > link & while ! [ -s link ]; do sleep 0.01; done; "$1" recv "$(cat link)" -o "$4" --quiet > /dev/null; wait $!; rm link'
TAR_CURL = 'id=$(curl -fsS -X POST "$3/stream" | cut -d\'"\' -f4); tar -C "$2" -c . | curl -fsS -T - "$3/stream/$id" & mkdir "$4"; curl -fsS "$3/stream/$id" | tar -C "$4" -x; wait $!'
AGE_CURL = 'id=$(curl -fsS -X POST "$3/stream" | cut -d\'"\' -f4); age -r "$5" "$2" | curl -fsS -T - "$3/stream/$id" & curl -fsS "$3/stream/$id" | age -d -i "$6" -o "$4"; wait $!'


def compare(options: argparse.Namespace, tally: Tally, ours: str, theirs: str, folder: Path, source: Path, *more: str) -> float:
    """Alternated runs of both. Returns the median ratio of their seconds to ours."""
    ratios = []
    with serving(options.server) as server:
        relay = f"http://{LOOPBACK}:{server.port}"
        for number in range(1 if options.quick else 5):
            seconds = []
            for how, script in (("ours", ours), ("theirs", theirs)):
                target = folder / f"{how}-{number}"
                taken, cpu = timed(script, options.server[0], source, relay, target, *more, folder=folder)
                seconds.append((taken, cpu))
                same = listing(source) == listing(target) if source.is_dir() else filecmp.cmp(source, target, False)
                check(same, f"{how}: not the same")
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            (our, our_cpu), (their, their_cpu) = seconds
            ratios.append(their / our)
            print(f"  ours {our:.2f} s ({our_cpu:.2f} s of CPU), theirs {their:.2f} s ({their_cpu:.2f} s)", flush=True)
    tally.notes.append(f"speed to theirs: {median(ratios):.2f}")
    return median(ratios)


def small(options: argparse.Namespace, tally: Tally) -> None:
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, tally.trial("small files"):
        folder = Path(name)
        tree = folder / "tree"
        small_files(tree, 2000 if options.quick else 20_000, random.Random(options.seed))
        ratio = compare(options, tally, SEND_RECV, TAR_CURL, folder, tree)
        check(ratio >= 0.5 or not options.strict, f"{ratio:.2f}")


def speed(options: argparse.Namespace, tally: Tally) -> None:
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, tally.trial("a large file"):
        folder = Path(name)
        source = folder / "source"
        write_random(source, 64 * MIB if options.quick else 2 * GIB)
        age = Packages(Path(options.packages))
        age.provide(["age"])
        os.environ["PATH"] = age.path()
        key = subprocess.run(("age-keygen",), check=True, capture_output=True, text=True).stdout
        identity = folder / "identity"
        identity.write_text(key)
        recipient = key.partition("public key: ")[2].split()[0]
        ratio = compare(options, tally, SEND_RECV, AGE_CURL, folder, source, recipient, str(identity))
        check(ratio >= 0.7 or not options.strict, f"{ratio:.2f}")


# ----------------------------------------------------------------------------------------------------- nginx

NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{relay}; }} }}
}}
"""


def nginx(options: argparse.Namespace, tally: Tally) -> None:
    packages = Packages(Path(options.packages))
    packages.provide(["nginx"])
    program = packages.program("nginx")
    check(program is not None, "there is no nginx")
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, serving(options.server) as server:
        folder, port = Path(name), free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, relay=server.port))
        with child(str(program), "-e", folder / "error.log", "-c", folder / "nginx.conf"), tally.trial("200 MiB"):
            wait_until(lambda: subprocess.call((*CURL, "-o", "/dev/null", f"http://{LOOPBACK}:{port}/ping")), lambda code: code == 0, "nginx")
            file, target = folder / "file", folder / "got"
            digest = write_random(file, 20 * MIB if options.quick else 200 * MIB)
            begun = time.monotonic()
            transfer(options.server[0], f"http://{LOOPBACK}:{port}", folder, file, target=target)
            check(sha256_of(target) == digest, "other bytes")
            tally.notes.append(f"{time.monotonic() - begun:.0f} s")


# ------------------------------------------------------------------------------------------------------- age

VERSION = b"age-encryption.org/v1"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def derived(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869), up to one block."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(key, info + b"\x01", "sha256")[:length]


def base32(data: bytes) -> str:
    return base64.b32encode(data).decode().lower().rstrip("=")


def base64_of(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


@dataclass(frozen=True)
class Secret:
    """What both sides derive from a link."""

    path: str
    passphrase: str

    @classmethod
    def of(cls, link: str) -> "Secret":
        number = 0
        for character in link.partition("#")[2]:
            number = number << 5 | CROCKFORD.index(character)
        secret = (number >> 2).to_bytes(16, "big")
        path, control = (derived(secret, b"http-rendezvous transfer 1", info) for info in (b"path", b"key ctl"))
        return cls(base32(path[:16]), base32(control))


def locked(message: dict[str, Any], passphrase: str) -> bytes:
    """An age message to one passphrase, with the work factor 10 (C2SP, age.md)."""
    file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    wrap = hashlib.scrypt(passphrase.encode(), salt=VERSION + b"/scrypt" + salt, n=1 << 10, r=8, p=1, dklen=32)
    body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
    head = VERSION + b"\n-> scrypt " + base64_of(salt) + b" 10\n" + base64_of(body) + b"\n---"
    mac = hmac.digest(derived(file_key, b"", b"header"), head, "sha256")
    payload = ChaCha20Poly1305(derived(file_key, nonce, b"payload"))
    sealed = payload.encrypt(bytes(11) + b"\x01", json.dumps(message).encode(), None)
    return head + b" " + base64_of(mac) + b"\n" + nonce + sealed


def opened_by_passphrase(program: str, message: bytes, passphrase: str, folder: Path) -> dict[str, Any]:
    """What stock age makes of a message, typing the passphrase on a terminal."""
    source, out = folder / "message", folder / "opened"
    source.write_bytes(message)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(program, (program, "-d", "-o", str(out), str(source)))
    seen = b""
    while b"passphrase" not in seen:
        seen += os.read(terminal, 1024)
    os.write(terminal, passphrase.encode() + b"\n")
    with suppress(OSError):  # the end of a terminal
        while os.read(terminal, 1024):
            pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    check(status == 0, f"age -d ended with {status}")
    return dict(json.loads(out.read_bytes()))


def age(options: argparse.Namespace, tally: Tally) -> None:
    packages = Packages(Path(options.packages))
    packages.provide(["age"])
    program, keygen = packages.program("age"), packages.program("age-keygen")
    check(program is not None and keygen is not None, "there is no age")
    with tempfile.TemporaryDirectory(prefix="transfers-") as name, serving(options.server) as server:
        folder, relay = Path(name), f"http://{LOOPBACK}:{server.port}"
        key = subprocess.run((str(keygen),), check=True, capture_output=True, text=True).stdout
        (folder / "identity").write_text(key)
        recipient = key.partition("public key: ")[2].split()[0]

        def segment(path: str) -> tuple[dict[str, Any], bytes]:
            status, sealed = server.request("GET", path)
            check(status == 200, f"GET {path}: {status} {sealed!r}")
            command = (str(program), "-d", "-i", str(folder / "identity"))
            plain = subprocess.run(command, input=sealed, check=True, capture_output=True).stdout
            length = int.from_bytes(plain[:4], "big")
            return json.loads(plain[4 : 4 + length]), plain[4 + length :]

        with tally.trial("a segment, and the whole course with a receiver in Python"):
            file = folder / "note.txt"
            file.write_bytes(b"hello\n" * 1000)
            with client(options.server[0], folder, "send", file, "--to", relay) as sender:
                secret = Secret.of(sender.link())
                ids = {"receiver": "r" * 26, "attempt": "a" * 26}
                ask = {"v": 1, "type": "ask", "n": 1, "offset": 0, "recipient": recipient, **ids}
                status, answer = server.request("PUT", f"/p/{secret.path}/ctl", locked(ask, secret.passphrase))
                check(status == 200, f"ask: {status} {answer!r}")
                first, data = segment(f"/p/{secret.path}/{ids['attempt']}/0")
                number, last = 0, first
                while not last.get("end"):
                    number += 1
                    last, more = segment(f"/p/{secret.path}/{ids['attempt']}/{number}")
                    data += more
                check(data == file.read_bytes() and first["name"] == "note.txt", f"{first}")
                receipt = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "stored": "disk"}
                done = {"v": 1, "type": "done", "n": 2, "transfer": first["transfer"], **ids, **receipt}
                server.request("PUT", f"/p/{secret.path}/ctl", locked(done, secret.passphrase))
                bye, _ = segment(f"/p/{secret.path}/{ids['attempt']}/bye")
                check(bye.get("type") == "bye", f"{bye}")
                check(sender.end()["code"] == 0, f"{sender.events[-1]}")

        with tally.trial("a control message"):
            link = f"{relay}/r#000G40R40M30E209185GR38E1W"
            secret = Secret.of(link)
            check(secret.path == "6i5ne7x267s672nxm6hhs726ma", f"{secret}")
            with client(options.server[0], folder, "recv", link):
                status, sealed = server.request("GET", f"/p/{secret.path}/ctl")
            ask = opened_by_passphrase(str(program), sealed, secret.passphrase, folder)
            check(status == 200 and ask["type"] == "ask" and ask["recipient"].startswith("age1"), f"{ask}")


TESTS: dict[str, Test] = {
    "whole": whole,
    "stored": stored,
    "small": small,
    "speed": speed,
    "nginx": nginx,
    "age": age,
    # The last, because it moves this process into a namespace of its own.
    "faults": faults,
}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--quick", action="store_true", help="smaller files, fewer transfers")
    parser.add_argument("--must-run", action="store_true", help="a test that cannot run fails")
    parser.add_argument("--strict", action="store_true", help="fail below the bounds of small and speed")
    parser.add_argument("--transfers", type=int, default=TRANSFERS, help="transfers of faults")
    parser.add_argument("--packages", default="target/packages", help="where nginx and age are unpacked if they are not installed")
    return run_all(parser, TESTS, "curl", "ip", "tar")


if __name__ == "__main__":
    sys.exit(main())
