"""Other nodes, and requests that a fault makes besides the transfers."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cluster.clients import Try, get, put
from cluster.engine import launch, until
from cluster.plan import BLOCK, Plan, SidePlan
from cluster.relay import HOP_PORT, NODES, PLAIN_PORT, TLS_PORT, Site
from cluster.wire import Cut, Unconnected, Wire, ask, error_name
from harness import KIB, MIB, check, chunk

Address = tuple[str, int]
GUEST = 1000  # added to the ports of the host's own node
IN_TIME = 5.0 + 2.0  # seconds for an answer that comes at once


@asynccontextmanager
async def node(site: Site, host: int, *options: str) -> AsyncIterator[Address]:
    """A further node on the host of another one, until the end of the block. Returns its address."""
    own = site.nodes[host].host
    command = list(site.command)
    for port in (TLS_PORT, PLAIN_PORT):
        command[command.index(str(port))] = str(port + GUEST)
    command[command.index(f"0.0.0.0:{HOP_PORT}")] = f"0.0.0.0:{HOP_PORT + GUEST}"
    for flag, value in zip(options[::2], options[1::2], strict=True):
        if flag in command:
            command[command.index(flag) + 1] = value
        else:
            command += [flag, value]
    process = launch(own, command, site.folder / f"guest-{host}.log")
    address = (own.address, PLAIN_PORT + GUEST)
    try:

        async def answers() -> bool:
            with suppress(Cut, Unconnected):
                return (await ask(address, "POST", "/stream", 3))[0].status == 201
            return False

        await until(answers, "a further node creates streams", 15)
        yield address
    finally:
        process.kill()
        process.wait()


async def sees(address: Address, nodes: str) -> bool:
    head, _ = await ask(address, "GET", "/stream", 3)
    return head.fields.get("rendezvous-nodes") == nodes


async def new_stream(address: Address) -> str:
    head, body = await ask(address, "POST", "/stream")
    check(head.status == 201, f"POST /stream: {head.status} {body!r}")
    return body.decode().split('"')[3]


async def no_common_streams(site: Site, one: Address, two: Address) -> None:
    """Neither cluster has the ids of the other, and the other one relays."""
    theirs, ours = await new_stream(one), await new_stream(site.nodes[0].address)
    for address, stream in ((site.nodes[1].address, theirs), (two, ours)):

        async def is_unknown(address: Address = address, stream: str = stream) -> bool:
            head, body = await ask(address, "GET", f"/stream/{stream}/status")
            check((head.status, error_name(body)) == (404, "SessionNotFoundError"), f"an id of others: {head.status} {body!r}")
            return True

        # A directory that is younger than 10 s is not believed: until then it is 503.
        await until(is_unknown, "an id of another cluster is unknown", 15)
    head, _ = await ask(two, "GET", f"/stream/{theirs}/status")
    check(head.status == 200, f"the other cluster: {head.status} for an id of its own")


async def all_read(site: Site, age: float, numbers: list[int] | None = None) -> bool:
    """Whether the list of each node is younger."""
    for number in numbers if numbers is not None else [*NODES]:
        with suppress(Cut, Unconnected):
            _, text = await ask(site.nodes[number].address, "GET", "/metrics", 3)
            found = re.search(rb"^rendezvous_cluster_directory_age_seconds (\S+)", text, re.MULTILINE)
            if found and float(found[1]) < age:
                continue
        return False
    return True


# ------------------------------------------------------------------------------------------- early responses


async def upload_until_answered(wire: Wire, target: str, total: int, chunked: bool) -> tuple[int, str]:
    """Uploads until a final response comes, which it returns."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {total}"
    await wire.send(f"PUT {target} HTTP/1.1\r\nHost: relay\r\n{framing}\r\n\r\n".encode())

    async def send() -> None:
        with suppress(Cut):
            for at in range(0, total, 64 * KIB):
                piece = BLOCK[at % MIB // 2 : at % MIB // 2 + 64 * KIB]
                await wire.send(chunk(piece) if chunked else piece)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(IN_TIME):
            head = await wire.final_head()
            return head.status, error_name(await wire.text(head))
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def early_404(site: Site, owner: int, edge: int, chunked: bool) -> None:
    tag = site.nodes[owner].tags[-1]
    target = f"/stream/{tag}-0000-8000-8000-000000000000"
    wire = await Wire.open(site.nodes[edge].address)
    try:
        seen = await upload_until_answered(wire, target, 32 * MIB, chunked)
    finally:
        wire.close()
    check(seen == (404, "SessionNotFoundError"), f"an upload at node {edge} for an unknown id of node {owner}: {seen}")


async def early_413(site: Site, owner: int, edge: int, other: int) -> None:
    """A chunked upload over the limit gets 413, and its destination a cut."""
    target = f"/stream/{await new_stream(site.nodes[owner].address)}"
    seen: list[str] = []

    async def receive() -> None:
        wire = await Wire.open(site.nodes[other].address)
        try:
            async with asyncio.timeout(IN_TIME):
                await wire.send(f"GET {target} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
                head = await wire.final_head()
                got = len(await wire.text(head))
                seen.append(f"{head.status} with {got} bytes that look whole")
        except Cut:
            seen.append("cut")
        except TimeoutError:
            seen.append("hanging")
        finally:
            wire.close()

    receiving = asyncio.create_task(receive())
    wire = await Wire.open(site.nodes[edge].address)
    try:
        answer = await upload_until_answered(wire, target, 6 * MIB, chunked=True)
    finally:
        wire.close()
        await receiving
    where = f"at node {edge}, owner {owner}, destination at {other}"
    check(answer == (413, "BodyTooLargeError"), f"an upload over the limit {where}: {answer}")
    check(seen == ["cut"], f"the destination of an upload over the limit {where}: {seen}")


# ------------------------------------------------------------------------------------------- kept connections


async def alternate(site: Site, putting: int, getting: int, rounds: int) -> None:
    """Transfers on kept connections, each of another owner than the one before."""
    opened = 0
    for number in range(rounds):
        owner, size = number % 3, (number * 977) % 5000
        stream = await new_stream(site.nodes[owner].address)
        source = SidePlan(putting, 0, False, True, 0, expect=number % 5 == 0)
        destination = SidePlan(getting, 0, False, True, 0)
        plan = Plan(0, False, owner, size, number % 2 == 0, 0.0, (putting * 3 + getting) * 1009 + number, source, destination)
        sent, got = Try(putting, 0.0), Try(getting, 0.0)
        async with asyncio.timeout(20):
            await asyncio.gather(
                put(site, plan, f"/stream/{stream}", sent), get(site, plan, f"/stream/{stream}", got)
            )
        where = f"PUT at {putting}, GET at {getting}, owner {owner}, round {number}"
        check(sent.status == 200 and got.end == "whole" and got.received == size and not got.wrong,
              f"on kept connections, {where}: PUT {sent.told()}, GET {got.told()} {got.wrong}")
        opened += 1
