"""The laws of docs/reliability.md and the table of docs/api.md, section 12, checked after each transfer. No I/O."""

import math
from collections import Counter
from dataclasses import dataclass, field

from cluster.clients import Try
from cluster.plan import BALANCER, Plan
from cluster.relay import DRAIN, JOINED, TTL, Site, Trouble

GRACE = 2.0  # seconds, on a busy machine
# Seconds within which a side whose own node lives is told, or cut: see the table in docs/cluster.md.
AT_ONCE, WAITING, STREAMING = 0.0 + GRACE, 3.0 + GRACE, 20.0 + GRACE

TOLD = {
    "503 OwnerUnreachableError", "502 OwnerLostError", "502 StreamSourceError", "502 StreamDestinationError",
    "504 SessionTimeoutError", "404 SessionNotFoundError", "429 AlreadyConnectedError",
}
OF_A_PROXY = {"502 of a proxy", "503 of a proxy", "504 of a proxy"}


@dataclass
class Transfer:
    """What happened to one plan."""

    plan: Plan
    began: float
    ended: float = math.inf
    target: str = ""
    tag: str = ""  # of the id; empty for a path
    owner: int | None = None
    creation: Try | None = None
    sources: list[Try] = field(default_factory=list)
    destinations: list[Try] = field(default_factory=list)
    delivered: bool = False

    def tries(self) -> list[Try]:
        return [*self.sources, *self.destinations]

    def edges(self) -> set[int]:
        return {one.edge for one in self.tries()}

    def is_good(self) -> bool:
        """Whether both sides got, at once, what they get if nothing fails."""
        put, get = self.sources, self.destinations
        return len(put) == len(get) == 1 and put[0].status == 200 and get[0].end == "whole"

    def story(self) -> str:
        lines = [f"{self.target or 'not created'} owner {self.owner}, {self.plan}"]
        named = [("POST", self.creation)] if self.creation else []
        named += [("PUT", one) for one in self.sources] + [("GET", one) for one in self.destinations]
        for name, one in named:
            took, paired = one.ended - one.began, f", paired after {one.paired - one.began:.2f}" if one.paired else ""
            where = "HAProxy" if one.edge == BALANCER else f"node {one.edge}"
            lines.append(f"{name} at {where}, from {one.began - self.began:.2f} for {took:.2f} s{paired}: {one.told()}")
        return "\n      ".join(lines)


def concerns(trouble: Trouble, transfer: Transfer) -> bool:
    """Whether the trouble may harm the transfer. Its times are looked at elsewhere."""
    edges, owner = transfer.edges(), transfer.owner
    if trouble.kind == "engine":
        return False
    if trouble.kind == "list":
        return transfer.plan.is_path and owner is None
    if trouble.kind == "apart":
        if owner is None or BALANCER in edges:
            return BALANCER in edges or bool(trouble.nodes & edges)
        return owner in trouble.nodes and bool((trouble.nodes - {owner}) & edges)
    if trouble.kind == "draining":
        # What runs goes on, and its ids are served, until its drain ends.
        late, here = trouble.begin + DRAIN - 1, [one for one in transfer.tries() if one.edge in trouble.nodes]
        return BALANCER in edges or any(one.began > trouble.begin or one.ended > late for one in here)
    if trouble.kind == "gone":
        return BALANCER in edges or bool(trouble.nodes & edges)
    return BALANCER in edges or owner is None or bool(trouble.nodes & (edges | {owner}))


def troubles_of(site: Site, transfer: Transfer) -> list[Trouble]:
    during = [one for one in site.troubles if one.overlaps(transfer.began, transfer.ended)]
    return [one for one in during if concerns(one, transfer) or is_unheard_of(site, transfer, one)]


def is_unheard_of(site: Site, transfer: Transfer, trouble: Trouble) -> bool:
    """Whether the owner is so new that other nodes can only learn of it from an engine that is in trouble."""
    return trouble.kind == "engine" and trouble.begin < site.born_tags.get(transfer.tag, -math.inf) + JOINED


def broken(site: Site, transfer: Transfer) -> list[str]:
    """The laws that the transfer breaks."""
    if transfer.plan.is_path:
        transfer.owner = site.path_owner(transfer.target.removeprefix("/p/"), transfer.began, transfer.ended)
    troubles = troubles_of(site, transfer)
    found = [*of_creation(site, transfer), *of_bytes(transfer), *of_success(site, transfer)]
    found += [f"law 5: {one.told()}: neither an answer nor a cut" for one in transfer.tries() if hangs(one, troubles)]
    if transfer.sources and not troubles and not transfer.is_good() and not is_late_receipt(transfer):
        found.append("it failed, although its nodes were alive and reachable")
    found += of_waits(transfer, troubles)
    found += of_answers(site, transfer, troubles)
    hard = [trouble for trouble in troubles if trouble.kind in ("dead", "stopped", "vanished", "apart")]
    # With several at the same time, one may hide the other: a node that stands still tells nobody that another one has died.
    if len(hard) == 1:
        found += of_time(transfer, hard[0])
    return found


def is_late_receipt(transfer: Transfer) -> bool:
    """Whether HAProxy has disconnected right behind the last byte: the source gets 502 for a whole body (docs/reliability.md)."""
    put, get = transfer.sources, transfer.destinations
    return (
        len(put) == len(get) == 1 and put[0].told() == "502 StreamDestinationError"
        and get[0].end == "whole" and get[0].edge == BALANCER
    )


def hangs(one: Try, troubles: list[Trouble]) -> bool:
    """Whether a side was left without an end. The reset of a host that has vanished is lost, and who only reads never learns of it."""
    vanished = any(trouble.kind == "vanished" and one.edge in trouble.nodes for trouble in troubles)
    return one.end == "hanging" and not (vanished and one.paired)


def of_creation(site: Site, transfer: Transfer) -> list[str]:
    one = transfer.creation
    if one is None or one.status == 201:
        return []
    if one.end == "hanging":
        return ["law 5: POST /stream was not answered"]
    during = [trouble for trouble in site.troubles if trouble.overlaps(one.began, one.ended)]
    node_kinds = [trouble for trouble in during if trouble.kind not in ("list", "apart")]
    if any(one.edge == BALANCER or one.edge in trouble.nodes for trouble in node_kinds):
        return []
    return [f"POST /stream at a node that is alive: {one.told()}"]


def of_bytes(transfer: Transfer) -> list[str]:
    found = []
    for one in transfer.destinations:
        if one.wrong:
            found.append(f"law 4: {one.wrong}")
        if one.end == "whole" and one.received != transfer.plan.size:
            found.append(f"law 1: {one.received} of {transfer.plan.size} bytes look whole")
    return found


def of_success(site: Site, transfer: Transfer) -> list[str]:
    """200 means delivered, and a refusal before the pairing that there was none."""
    if not transfer.sources:
        return []
    source, size = transfer.sources[-1], transfer.plan.size
    if source.end == "answered" and source.status == 200:
        if any(one.end == "whole" for one in transfer.destinations):
            return []
        # Without a length the end of the body is the close, which may be lost behind the last byte that was acknowledged.
        if any(one.until_close and one.received == size and one.end == "cut" for one in transfer.destinations):
            return []
        # HAProxy's kernel has acknowledged: what HAProxy does with it when its server resets is its own.
        if any(one.edge == BALANCER and one.end == "cut" for one in transfer.destinations) and site.troubles:
            return []
        return [f"law 3: 200, and the destination has {max((one.received for one in transfer.destinations), default=0)} of {size} bytes"]
    if source.status == 503 and source.name == "OwnerUnreachableError":
        if any(one.paired for one in transfer.destinations):
            return ["law 7: the source got 503, which is said before the pairing, and the destination has a body"]
    return []


def of_waits(transfer: Transfer, troubles: list[Trouble]) -> list[str]:
    """A side waits for the ttl and no longer, unless nodes stand still or cannot be reached."""
    if any(trouble.kind in ("stopped", "vanished", "apart") for trouble in troubles):
        return []
    waits = [one.ended - one.began for one in transfer.tries() if one.told() == "504 SessionTimeoutError"]
    return [f"a side has waited for {wait:.1f} s, longer than the ttl of {TTL:.0f} s" for wait in waits if wait > TTL + GRACE]


def of_answers(site: Site, transfer: Transfer, troubles: list[Trouble]) -> list[str]:
    """The errors are those of the table."""
    allowed = set(TOLD)
    if any(trouble.kind == "draining" for trouble in troubles):
        allowed.add("503 ShuttingDownError")
    if any(trouble.kind == "engine" and trouble.overlaps(transfer.began, transfer.ended) for trouble in site.troubles):
        allowed.add("503 DirectoryUnavailableError")
    found = []
    for one in transfer.tries():
        if one.end != "answered" or one.status == 200:
            continue
        told = one.told()
        if told in OF_A_PROXY and one.edge == BALANCER:
            continue
        if told not in allowed:
            found.append(f"{told}: not an answer for this")
        elif one.status == 404 and not may_be_unknown(site, transfer, one):
            found.append("404 for an id whose owner lives and which nobody has used")
    return found


def may_be_unknown(site: Site, transfer: Transfer, one: Try) -> bool:
    if site.dead_tags.get(transfer.tag, math.inf) <= one.ended or one.ended - transfer.began > TTL - 0.5:
        return True
    others = [other for other in transfer.tries() if other is not one]
    was_paired = any(0 < other.paired < one.ended for other in others)
    return was_paired or any(other.ended < one.ended and other.status not in (503, 429, 404) for other in others)


def of_time(transfer: Transfer, trouble: Trouble) -> list[str]:
    """Sides whose own node lives are told in time that the owner does not."""
    owner, found = transfer.owner, []
    if owner not in trouble.nodes:
        return []
    paired = any(one.paired and one.paired <= trouble.begin for one in transfer.destinations)
    for one in transfer.tries():
        if one.edge in (BALANCER, owner) or not one.began <= trouble.end or one.ended < trouble.begin:
            continue
        if trouble.kind == "apart" and one.edge not in trouble.nodes:
            continue
        if one.status in (200, 504) or one.end == "whole":
            continue  # it went on after the trouble, or never needed the owner again
        took = one.ended - max(one.began, trouble.begin)
        if trouble.kind == "dead":
            bound = AT_ONCE
        else:
            is_streaming = paired or (len(transfer.sources) > 0 and len(transfer.destinations) > 0 and one.began < trouble.begin)
            bound = STREAMING if is_streaming else WAITING
        if took > bound:
            found.append(f"told after {took:.1f} s, not within {bound:.1f}: {one.told()}, {trouble.kind} {sorted(trouble.nodes)}")
    return found


@dataclass
class Row:
    """A line of the table: a fault, and what happened to the transfers under it."""

    transfers: int = 0
    delivered: int = 0
    cut: int = 0
    told: Counter[str] = field(default_factory=Counter)
    late_receipts: int = 0
    longest: float = 0.0
    longest_story: str = ""
    broken: int = 0

    def add(self, transfer: Transfer) -> None:
        self.transfers += 1
        self.late_receipts += is_late_receipt(transfer)
        self.delivered += any(one.end == "whole" for one in transfer.destinations)
        for one in [*transfer.tries(), *([transfer.creation] if transfer.creation else [])]:
            if one.status not in (200, 201) and one.ended - one.began > self.longest:
                self.longest, self.longest_story = one.ended - one.began, transfer.story()
            if one.end == "answered" and one.status not in (200, 201):
                self.told[one.told()] += 1
            elif one.end in ("cut", "unconnected", "hanging"):
                self.told[one.end] += 1
        self.cut += any(one.end == "cut" for one in transfer.tries())

    def merge(self, other: "Row") -> None:
        self.transfers += other.transfers
        self.delivered += other.delivered
        self.cut += other.cut
        self.broken += other.broken
        self.told += other.told
        self.longest = max(self.longest, other.longest)
