#!/usr/bin/env python3
"""How late the sender's 200 is: the time from the receiver's last acknowledgement to the 200 (Linux, iproute2; no Python packages).

    target/release/rendezvous is measured, or each --server in turns. The receiver is another network namespace. Between them this
    program carries packets over a pair of TUN devices, each packet half a round trip late, so that the kernels know the distance.

Three kinds of transfers: 1 KiB on a connection of its own; 1 KiB on a connection that is kept, where Linux delays some
acknowledgements; and a larger body. Prints medians and 99th percentiles in milliseconds. It measures and gates nothing. Needs root, or
the right to make user namespaces.
"""

import argparse
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import network
from harness import KIB, LOOPBACK, MIB, ROOT, Server, serving
from network import LossyCables, LossyHost

ROUND_TRIPS = 0, 10, 50, 200  # milliseconds
SMALL = KIB
LARGE = 8 * MIB
PIECE = bytes(256 * KIB)
SINGLE, KEPT, BULK = 12, 25, 3  # transfers of each kind in a round
IS_ACK = 0x10


class LongCable(LossyCables):
    """Carries packets half a round trip late, in order and without losses, and notes when acknowledgements arrive."""

    def __init__(self, host: LossyHost, round_trip: float) -> None:
        super().__init__([host], random.Random(0))
        self._delay = round_trip / 2
        self._far = host.far
        self._acknowledged: dict[int, int] = {}
        self.arrived: dict[int, float] = {}  # when the last acknowledgement came, by the port of the receiver

    def _take(self, end: int, packet: bytes) -> None:
        due = self._carry(end, packet, self._delay)
        tcp = packet[(packet[0] & 15) * 4 :]
        if end == self._far and packet[9] == socket.IPPROTO_TCP and tcp[13] & IS_ACK:
            port, number = int.from_bytes(tcp[:2]), int.from_bytes(tcp[8:12])
            if self._acknowledged.get(port) != number:
                self._acknowledged[port] = number
                self.arrived[port] = due


def head_of(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(64 * KIB)
        if not piece:
            raise EOFError(f"the connection ended after {received!r}")
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def receive(connection: socket.socket, stream: str, size: int) -> None:
    connection.sendall(f"GET /stream/{stream} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    _, rest = head_of(connection)
    left = size - len(rest)
    while left > 0:
        left -= len(connection.recv(256 * KIB))


def lateness(server: Server, cable: LongCable, receiver: socket.socket, size: int) -> float:
    """Runs one transfer. Returns how many milliseconds after the last acknowledgement the sender has its 200."""
    stream = server.new_stream()
    receiving = threading.Thread(target=receive, args=(receiver, stream, size))
    receiving.start()
    server.wait_for_state(stream, "DST_CONNECTED")
    with closing(socket.create_connection((LOOPBACK, server.port))) as source:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source.sendall(f"PUT /stream/{stream} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        for at in range(0, size, len(PIECE)):
            source.sendall(PIECE[: size - at])
        answer, _ = head_of(source)
        answered = time.monotonic()
    receiving.join()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ValueError(answer)
    return (answered - cable.arrived[receiver.getsockname()[1]]) * 1000


def measure(server: Server, cable: LongCable, host: LossyHost, seen: dict[str, list[float]]) -> None:
    def connected() -> socket.socket:
        with host.space.inside():
            receiver = socket.socket()
        receiver.connect((host.server, server.port))
        return receiver

    for kind, size, count in (("1 KiB", SMALL, SINGLE), (f"{LARGE // MIB} MiB", LARGE, BULK)):
        for _ in range(count):
            with closing(connected()) as receiver:
                seen[kind].append(lateness(server, cable, receiver, size))
    with closing(connected()) as receiver:
        for _ in range(KEPT):
            seen["1 KiB, kept connection"].append(lateness(server, cable, receiver, SMALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, action="append", help="a program to measure; may be repeated")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    programs = options.server or [ROOT / "target/release/rendezvous"]
    network.become_a_host()
    for number, round_trip in enumerate(ROUND_TRIPS):
        seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        with network.closing(LossyHost(number)) as host, LongCable(host, round_trip / 1000) as cable:
            for _ in range(options.rounds):
                for program in programs:
                    with serving((program,), host="0.0.0.0", stderr=subprocess.DEVNULL) as server:
                        measure(server, cable, host, seen[program.name])
        for name, kinds in seen.items():
            for kind, values in kinds.items():
                worst = statistics.quantiles(values, n=100, method="inclusive")[98]
                figures = f"median {statistics.median(values):5.1f} ms, p99 {worst:5.1f} ms"
                print(f"{round_trip:3} ms, {kind:23} {name}: {figures} of {len(values)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
