"""The relay is killed, links are cut, clients are stopped for a minute: each transfer goes on by itself and completes.

Each transfer has a fault in its middle, and does not send much more again than the fault lost. Several run at once, in
lanes: each has a relay and two hosts of its own, which are network namespaces (`network.py`). The experiment leaves this
process in such a namespace, so no other can follow it.
"""

import argparse
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from harness import MIB, Tally, check, greeted_port, write_random
from network import Host, Router, become_a_host, closing
from transfers.shared import Client, client, environment, is_copy, remove, scratch_folder

LANES = 8
SIZE = 24 * MIB
RATE = "2m"  # of the relay: a transfer lasts long enough for a fault
# A segment that waits for its receiver lapses after so many seconds, and so many bytes of it may have left the host.
LAPSE, LAPSED = 8.0, 2 * MIB


@dataclass(frozen=True)
class Lengths:
    """How many seconds faults last. A cut may be shorter than LAPSE, and longer."""

    cut: tuple[float, float]
    stopped: float


LENGTHS = Lengths(cut=(2, 30), stopped=60)
QUICK_LENGTHS = Lengths(cut=(2, 12), stopped=5)

# ----------------------------------------------------------------------------------------------------- lanes


class Relay:
    """A relay that is killed and started again at its port."""

    def __init__(self, server: tuple[str, ...], address: str) -> None:
        self._command = (*server, "serve", "--host", address, "--log-level", "error", "--max-stream-rate", RATE)
        self._address = address
        self.port = 0
        self.start()

    def start(self) -> None:
        command = (*self._command, "--port", str(self.port))
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(Path("/nonexistent")))
        self.port = greeted_port(self._process, f"http://{self._address}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Lane:
    """A relay and two hosts, for one transfer at a time."""

    relay: Relay
    sending: Host
    receiving: Host
    chance: random.Random
    folder: Path
    lengths: Lengths

    def end(self) -> None:
        self.relay.kill()
        self.sending.end()
        self.receiving.end()


def new_lane(options: argparse.Namespace, router: Router, folder: Path, number: int) -> Lane:
    own = folder / f"lane-{number}"
    own.mkdir()
    chance = random.Random(options.seed * 1000 + number)
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    return Lane(Relay(options.server, router.server), router.host(), router.host(), chance, own, lengths)


def bytes_sent(host: Host) -> int:
    """Bytes that the host has sent since it exists."""
    lines = Path(f"/proc/{host.space.pid}/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("eth0:")]
    return int(line.split()[9])


# ---------------------------------------------------------------------------------------------------- faults


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
    time.sleep(lane.chance.uniform(*lane.lengths.cut))
    host.repair()


def stop_sender(lane: Lane, sender: Client, _receiver: Client) -> None:
    stop(lane, sender)


def stop_receiver(lane: Lane, _sender: Client, receiver: Client) -> None:
    stop(lane, receiver)


def stop(lane: Lane, one: Client) -> None:
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(lane.lengths.stopped)
    one.process.send_signal(signal.SIGCONT)


FAULTS = (kill_relay, cut_sender, cut_receiver, stop_sender, stop_receiver)


# ------------------------------------------------------------------------------------------------- transfers


def run(options: argparse.Namespace, tally: Tally) -> None:
    try:
        become_a_host()
    except OSError as error:
        if options.must_run:
            raise
        print(f"faults: SKIPPED: {error}")
        return
    transfers, size = (2 * LANES, SIZE // 4) if options.quick else (options.transfers, SIZE)
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
                lost.append(one_fault(options.server[0], lane, number, size))

    with scratch_folder() as folder, closing(Router()) as router:
        lanes = [new_lane(options, router, folder, number) for number in range(LANES)]
        try:
            with ThreadPoolExecutor(LANES) as pool:
                list(pool.map(run_lane, lanes))
        finally:
            for lane in lanes:
                lane.end()
    if lost:
        tally.notes.append(f"lost and sent again: median {median(lost):.1f} MiB, most {max(lost):.1f}")


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

    def sent_so_far() -> int:
        return bytes_sent(lane.sending)

    send = ("send", *source, "--to", relay)
    with client(program, lane.folder, *send, inside=lane.sending.space.inside, meter=sent_so_far, **how) as sender:
        recv = ("recv", sender.link(), "-o", target)
        with client(program, lane.folder, *recv, inside=lane.receiving.space.inside) as receiver:
            at = lane.chance.uniform(0, 1) * size
            while receiver.position() < at and sender.process.poll() is None:
                time.sleep(0.05)
            begun = time.monotonic()
            fault(lane, sender, receiver)
            lapses = (time.monotonic() - begun) / LAPSE
            got, sent = receiver.end(), sender.end()
    check(got["code"] == 0 and sent["code"] == 0, f"{fault.__name__}: sender {sent}, receiver {got}")
    check(is_copy(path, target), f"{fault.__name__}: other bytes")
    held = [int(event["offset"]) for event in receiver.events if event["event"] == "resumed"]
    check(not held, f"{fault.__name__}: the receiver began anew at {held}")
    asked = [(int(ask["offset"]), int(ask["meter"])) for ask in sender.events if ask["event"] == "asked"]
    # What had left the host, and was not behind what the receiver asked for next.
    lost = sum(after - before - (to - since) for (since, before), (to, after) in pairwise(asked))
    surplus = bytes_sent(lane.sending) - before - size
    # The framing of TCP and age, control messages and retries take some percent.
    allowed = 2 * lost + lapses * LAPSED + size * 0.06 + MIB
    check(surplus <= allowed, f"{fault.__name__}: {surplus / MIB:.1f} MiB too many, lost {lost / MIB:.1f}")
    remove(path)
    remove(target)
    return lost / MIB
