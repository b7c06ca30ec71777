"""A receiver in Python: the `age` of Debian opens a segment of `send` and a control message of `recv`."""

import argparse
import base64
import hashlib
import hmac
import json
import os
import pty
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from harness import Server, Tally, check, serving
from packages import Packages
from transfers.shared import client, new_identity, scratch_folder, url_of

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


@dataclass(frozen=True)
class Receiver:
    """Takes segments of a transfer from the relay, and opens them by stock age."""

    server: Server
    program: str
    identity: Path

    def segment(self, path: str) -> tuple[dict[str, Any], bytes]:
        """The head of a segment, and its data."""
        status, sealed = self.server.request("GET", path)
        check(status == 200, f"GET {path}: {status} {sealed!r}")
        command = (self.program, "-d", "-i", str(self.identity))
        plain = subprocess.run(command, input=sealed, check=True, capture_output=True).stdout
        length = int.from_bytes(plain[:4], "big")
        return json.loads(plain[4 : 4 + length]), plain[4 + length :]


def run(options: argparse.Namespace, tally: Tally) -> None:
    packages = Packages(Path(options.packages))
    packages.provide(["age"])
    program, keygen = packages.program("age"), packages.program("age-keygen")
    check(program is not None and keygen is not None, "there is no age")
    with scratch_folder() as folder, serving(options.server) as server:
        identity, recipient = new_identity(str(keygen), folder)
        receiver = Receiver(server, str(program), identity)
        with tally.trial("a segment, and the whole course with a receiver in Python"):
            receive(options, receiver, recipient, folder)
        with tally.trial("a control message"):
            open_control_message(options, receiver, folder)


def receive(options: argparse.Namespace, receiver: Receiver, recipient: str, folder: Path) -> None:
    file = folder / "note.txt"
    file.write_bytes(b"hello\n" * 1000)
    server = receiver.server
    with client(options.server[0], folder, "send", file, "--to", url_of(server)) as sender:
        secret = Secret.of(sender.link())
        ids = {"receiver": "r" * 26, "attempt": "a" * 26}
        ask = {"v": 1, "type": "ask", "n": 1, "offset": 0, "recipient": recipient, **ids}
        status, answer = server.request("PUT", f"/p/{secret.path}/ctl", locked(ask, secret.passphrase))
        check(status == 200, f"ask: {status} {answer!r}")
        first, data = receiver.segment(f"/p/{secret.path}/{ids['attempt']}/0")
        number, last = 0, first
        while not last.get("end"):
            number += 1
            last, more = receiver.segment(f"/p/{secret.path}/{ids['attempt']}/{number}")
            data += more
        check(data == file.read_bytes() and first["name"] == "note.txt", f"{first}")
        receipt = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "stored": "disk"}
        done = {"v": 1, "type": "done", "n": 2, "transfer": first["transfer"], **ids, **receipt}
        server.request("PUT", f"/p/{secret.path}/ctl", locked(done, secret.passphrase))
        bye, _ = receiver.segment(f"/p/{secret.path}/{ids['attempt']}/bye")
        check(bye.get("type") == "bye", f"{bye}")
        check(sender.end()["code"] == 0, f"{sender.events[-1]}")


def open_control_message(options: argparse.Namespace, receiver: Receiver, folder: Path) -> None:
    link = f"{url_of(receiver.server)}/r#000G40R40M30E209185GR38E1W"
    secret = Secret.of(link)
    check(secret.path == "6i5ne7x267s672nxm6hhs726ma", f"{secret}")
    with client(options.server[0], folder, "recv", link):
        status, sealed = receiver.server.request("GET", f"/p/{secret.path}/ctl")
    ask = opened_by_passphrase(receiver.program, sealed, secret.passphrase, folder)
    check(status == 200 and ask["type"] == "ask" and ask["recipient"].startswith("age1"), f"{ask}")
