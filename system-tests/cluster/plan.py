"""What a transfer is to do: drawn by chance, from the run's seed and the transfer's number."""

import random
from dataclasses import dataclass

from harness import KIB, MIB

BLOCK = random.Random(7).randbytes(1_000_003)  # an odd length, so that no shifted piece looks right
TWICE = BLOCK * 2
BALANCER = -1  # in place of a node: HAProxy, which sends the request to any of them


def content(start: int, offset: int, length: int) -> bytes:
    """A piece of at most a block of the body that begins at `start` in the block. Each transfer has a start of its own."""
    at = (start + offset) % len(BLOCK)
    return TWICE[at : at + min(length, len(BLOCK))]


@dataclass(frozen=True)
class SidePlan:
    """How one side behaves."""

    edge: int
    late: float  # seconds after the creation at which it connects
    curl: bool  # curl over TLS with HTTP/2
    kept: bool  # on a kept connection, if there is one
    repeats: int  # how often it repeats a request that got 503
    expect: bool = False
    http10: bool = False


@dataclass(frozen=True)
class Plan:
    """One transfer."""

    number: int
    is_path: bool
    creator: int
    size: int
    chunked: bool
    lasts: float  # seconds that the source takes at least
    start: int
    source: SidePlan
    destination: SidePlan


def drawn_size(chance: random.Random) -> int:
    kind = chance.random()
    if kind < 0.05:
        return 0
    if kind < 0.99:
        return int(2 ** chance.uniform(0, 20))
    return chance.randrange(8 * MIB, 64 * MIB)


def drawn_side(chance: random.Random, edge: int, late: float, is_source: bool) -> SidePlan:
    curl = edge != BALANCER and chance.random() < 0.05
    http10 = not is_source and edge != BALANCER and not curl and chance.random() < 0.25
    return SidePlan(
        edge=edge,
        late=late,
        curl=curl,
        kept=not curl and not http10 and chance.random() < 0.4,
        repeats=chance.choice((0, 0, 8)),
        expect=is_source and chance.random() < 0.3,
        http10=http10,
    )


def drawn(seed: str, number: int, usable: list[int], most: int = 64 * MIB) -> Plan:
    """Draws a transfer. Four of five edges are usable ones, as a load balancer would choose them."""
    chance = random.Random(f"{seed} {number}")

    def edge() -> int:
        if chance.random() < 0.12:
            return BALANCER
        return chance.choice(usable) if usable and chance.random() < 0.8 else chance.randrange(3)

    kind = chance.random()
    late = (0.0, 0.0)
    if kind < 0.15:
        late = (chance.uniform(0.5, 5), 0.0)
    elif kind < 0.3:
        late = (0.0, chance.uniform(0.5, 5))
    elif kind < 0.6:
        late = (0.0, chance.uniform(0, 0.2))
    elif kind < 0.9:
        late = (chance.uniform(0, 0.2), 0.0)
    size = min(drawn_size(chance), most)
    slow = size > 2 * KIB and size <= MIB and chance.random() < 0.25
    return Plan(
        number=number,
        is_path=chance.random() < 0.4,
        creator=edge(),
        size=size,
        chunked=chance.random() < 0.5,
        lasts=chance.uniform(1, 6) if slow else 0.0,
        start=number * 7919 % len(BLOCK),
        source=drawn_side(chance, edge(), late[0], is_source=True),
        destination=drawn_side(chance, edge(), late[1], is_source=False),
    )
