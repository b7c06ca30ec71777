"""The two sides of a transfer, by sockets and by curl. Each request becomes a `Try` that says how it ended."""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass

from cluster.plan import BALANCER, Plan, SidePlan, content
from cluster.relay import Site
from cluster.wire import Cut, Head, Unconnected, Wire, error_name
from harness import CURL, KIB, chunk

WRITE = 256 * KIB
SLICES = 20  # of a slow body


@dataclass
class Try:
    """One request of a side, and how it ended."""

    edge: int
    began: float
    ended: float = 0.0
    # answered: a final response, which for a destination is an error. whole: a body that its framing calls whole.
    # cut: the connection ended within a message, or without a response. unconnected, hanging.
    end: str = "hanging"
    status: int = 0
    name: str = ""
    paired: float = 0.0  # when the 100, or the head of the body, came
    received: int = 0  # of the body, and right
    wrong: str = ""  # how the body differs from the source's
    until_close: bool = False
    detail: str = ""

    def told(self) -> str:
        if self.end == "answered":
            return f"{self.status} {self.name or 'of a proxy'}"
        return f"{self.end}{f' after {self.received} bytes' if self.received else ''}{f' ({self.detail})' if self.detail else ''}"


@dataclass
class Body:
    """Compares what comes with what the source sends."""

    plan: Plan
    one: Try

    def take(self, piece: bytes) -> None:
        one = self.one
        while piece and not one.wrong:
            wanted = content(self.plan.start, one.received, min(len(piece), self.plan.size - one.received))
            if not wanted:
                one.wrong = f"{len(piece)} bytes behind the end, at {one.received}"
                return
            if piece[: len(wanted)] != wanted:
                at = next(i for i, (a, b) in enumerate(zip(piece, wanted, strict=False)) if a != b)
                one.wrong = f"another byte at {one.received + at}: {piece[at : at + 32]!r}"
                return
            one.received += len(wanted)
            piece = piece[len(wanted) :]


def pieces(plan: Plan) -> int:
    """The size of what the source writes at once."""
    return min(WRITE, max(1, plan.size // SLICES)) if plan.lasts else WRITE


async def connection(site: Site, side: SidePlan, edge: int) -> Wire:
    wire = site.nodes[edge].kept() if side.kept and edge != BALANCER else None
    return wire or await Wire.open(site.address(edge))


async def guarded(one: Try, what: Awaitable[None]) -> None:
    """Runs a request, and notes how it ended if it did not end well."""
    try:
        await what
    except Unconnected as error:
        one.end, one.detail = "unconnected", str(error)
    except Cut as error:
        one.end, one.detail = "cut", str(error)
    finally:
        one.ended = time.monotonic()


async def answered(one: Try, wire: Wire, head: Head) -> None:
    """Takes a final response with a small body. A cut within that still is this response."""
    body = b""
    with suppress(Cut):
        body = await wire.text(head)
    one.end, one.status, one.name = "answered", head.status, error_name(body)


# --------------------------------------------------------------------------------------------------- sockets


async def get(site: Site, plan: Plan, target: str, one: Try) -> None:
    side = plan.destination
    wire = await connection(site, side, one.edge)
    keep = False
    try:
        version = "HTTP/1.0" if side.http10 else "HTTP/1.1"
        await wire.send(f"GET {target} {version}\r\nHost: relay\r\n\r\n".encode())
        head = await wire.final_head()
        if head.status != 200:
            await answered(one, wire, head)
            keep = head.stays_open()
            return
        one.status, one.paired = 200, time.monotonic()
        one.until_close = head.length() is None and not head.is_chunked()
        body = Body(plan, one)
        async for piece in wire.body(head):
            body.take(piece)
        one.end = "whole"
        keep = head.stays_open()
    finally:
        if keep and side.kept and one.edge != BALANCER and one.edge not in site.hidden_ports:
            site.nodes[one.edge].keep(wire)
        else:
            wire.close()


async def put(site: Site, plan: Plan, target: str, one: Try) -> None:
    side = plan.source
    wire = await connection(site, side, one.edge)
    keep = False
    sending: asyncio.Task[None] | None = None
    may_send = asyncio.Event()
    try:
        framing = "Transfer-Encoding: chunked" if plan.chunked else f"Content-Length: {plan.size}"
        expect = "Expect: 100-continue\r\n" if side.expect else ""
        await wire.send(f"PUT {target} HTTP/1.1\r\nHost: relay\r\n{framing}\r\n{expect}\r\n".encode())
        if not side.expect:
            may_send.set()
        sending = asyncio.create_task(send_body(plan, wire, may_send))
        while (head := await wire.head()).status < 200:
            if side.expect:
                one.paired = one.paired or time.monotonic()
            may_send.set()
        await answered(one, wire, head)
        keep = head.stays_open() and sending.done() and not sending.exception()
    finally:
        if sending:
            sending.cancel()
            with suppress(Cut, asyncio.CancelledError):
                await sending
        if keep and side.kept and one.edge != BALANCER and one.edge not in site.hidden_ports:
            site.nodes[one.edge].keep(wire)
        else:
            wire.close()


async def send_body(plan: Plan, wire: Wire, may_send: asyncio.Event) -> None:
    await may_send.wait()
    size, sent = pieces(plan), 0
    while sent < plan.size:
        piece = content(plan.start, sent, min(size, plan.size - sent))
        await wire.send(chunk(piece) if plan.chunked else piece)
        sent += len(piece)
        if plan.lasts:
            await asyncio.sleep(plan.lasts / SLICES)
    if plan.chunked:
        await wire.send(b"0\r\n\r\n")


# ------------------------------------------------------------------------------------------------------ curl

PARTIAL = (18, 52, 55, 56, 92, 16, 35)  # of curl's exit codes: the connection or the HTTP/2 stream ended too early
NOT_CONNECTED = (7, 28)


async def curl(one: Try, command: tuple[str, ...], plan: Plan, is_source: bool) -> None:
    process = await asyncio.create_subprocess_exec(
        *CURL, "-k", "--http2", "--connect-timeout", "5", "-w", "%{stderr}%{http_code}", *command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    feeding = asyncio.create_task(feed(process.stdin, plan if is_source else None))
    complaint = asyncio.create_task(process.stderr.read())
    text, body = b"", Body(plan, one)
    try:
        while piece := await process.stdout.read(WRITE):
            if not is_source:
                one.paired = one.paired or time.monotonic()
                # An error of the relay is no body: which it is, is known at the end.
                if len(text) < 4 * KIB:
                    text += piece
                before = one.wrong
                body.take(piece)
                if one.wrong and not before and len(text) < 4 * KIB:
                    one.detail = "unlike"
            else:
                text += piece
        code = await process.wait()
    finally:
        feeding.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = (await complaint).decode()
    one.status = int(said[-3:]) if said[-3:].isdigit() else 0
    if one.status not in (0, 200):
        one.wrong, one.received, one.paired, one.detail = "", 0, 0.0, ""
    if code in NOT_CONNECTED:
        raise Unconnected(said.strip())
    if (is_source and one.status >= 200) or one.status >= 300:
        one.end, one.name = "answered", error_name(text)
    elif code:
        raise Cut(f"curl {code}: {said.strip()}")
    else:
        one.end, one.detail = "whole", ""


async def feed(pipe: asyncio.StreamWriter, plan: Plan | None) -> None:
    with suppress(OSError):
        sent = 0
        while plan and sent < plan.size:
            piece = content(plan.start, sent, min(pieces(plan), plan.size - sent))
            pipe.write(piece)
            await pipe.drain()
            sent += len(piece)
            if plan.lasts:
                await asyncio.sleep(plan.lasts / SLICES)
        pipe.close()


# ----------------------------------------------------------------------------------------------------- sides


async def one_try(site: Site, plan: Plan, target: str, side: SidePlan, is_source: bool, tries: list[Try]) -> Try:
    """One request."""
    one = Try(side.edge, time.monotonic())
    tries.append(one)
    if side.curl:
        url = site.nodes[side.edge].url() + target
        command = ("-T", "-", url) if is_source else (url,)
        await guarded(one, curl(one, command, plan, is_source))
    else:
        request = put if is_source else get
        await guarded(one, request(site, plan, target, one))
    return one


async def run_side(site: Site, plan: Plan, target: str, side: SidePlan, is_source: bool, tries: list[Try]) -> None:
    """A side, which repeats a request that got 503 if that is its plan."""
    await asyncio.sleep(side.late)
    for attempt in range(1 + side.repeats):
        one = await one_try(site, plan, target, side, is_source, tries)
        if one.status != 503:
            return
        await asyncio.sleep(0.2 + 0.2 * attempt)
