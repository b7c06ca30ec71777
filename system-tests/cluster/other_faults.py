"""Other parties that use the engine, clients with requests of their own, and several faults at the same time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from signal import SIGCONT, SIGSTOP

from cluster import guests
from cluster.engine import until
from cluster.moments import KEY, LIVES, moment
from cluster.relay import NODES, Site


async def forge(site: Site, chance: random.Random) -> None:
    """records are forged, also in place of true ones"""
    redis = await site.engine.primary()
    for _ in range(12):
        await moment(chance, 0.2, 1.5)
        pairs = await redis.run("HGETALL", KEY)
        records = {tag: value for tag, value in zip(pairs[::2], pairs[1::2], strict=True) if tag[0] != "#"}
        if not records:
            continue
        tag, record = chance.choice(sorted(records.items()))
        other = f"{chance.getrandbits(32):08x}"
        far = str(int((await redis.run("TIME"))[0]) * 1000 + 10**7)
        line = record.split(" ", 1)[1]
        forged = {
            "moved": (tag, f"{far} {line.replace('at=10.', 'at=10.9')}"),
            "copied": (other, f"{far} {line}"),
            "renamed": (other, f"{far} {line.replace(tag, other)}"),
            "drained": (tag, f"{far} {line.replace('draining=0', 'draining=1')}"),
            "nonsense": (other, f"{far} nonsense"),
            "broken": (tag, "x" * 5000),
            "expired": (tag, f"1 {line}"),
        }
        kind = chance.choice(sorted(forged))
        await redis.run("HSET", KEY, *forged[kind])
        if chance.random() < 0.3:
            await redis.run("HSET", KEY, "#number", chance.choice(("0", "-5", "x", str(2**53 - 5), "1000000")))
    for field in await redis.run("HKEYS", KEY):
        if field[0] != "#" and field not in site.owners:
            await redis.run("HDEL", KEY, field)


async def two_clusters(site: Site, chance: random.Random) -> None:
    """another cluster, and a node with another secret, use the same engine"""
    await moment(chance)
    secret = site.folder / "another-secret"
    secret.write_text("the secret of others, which has 32 characters or more\n")
    async with (
        guests.node(site, 0, "--cluster-name", "other") as one,
        guests.node(site, 1, "--cluster-name", "other") as two,
        guests.node(site, 2, "--cluster-secret-file", str(secret)),
    ):
        await until(lambda: guests.sees(one, "2/2"), "the other cluster", 15)
        await site.until_nodes("3/3", 5)
        await guests.no_common_streams(site, one, two)
        await moment(chance, 4, 8)
        await site.until_nodes("3/3", 5)


async def early(site: Site, chance: random.Random) -> None:
    """uploads through other nodes get 404 and 413 while they run"""
    await moment(chance, 0.1, 0.5)
    for round_ in range(3):
        for owner in NODES:
            for edge in NODES:
                await guests.early_404(site, owner, edge, chunked=round_ % 2 == 0)
                await guests.early_413(site, owner, edge, (edge + round_) % 3)


async def kept(site: Site, chance: random.Random) -> None:
    """on kept connections, transfers alternate between owners"""
    await moment(chance, 0.1, 0.5)
    await asyncio.gather(*(guests.alternate(site, put, get, 60) for put in NODES for get in NODES))


async def storm(site: Site, chance: random.Random) -> None:
    """several of these at the same time, for half a minute"""
    (redis,) = site.engine.all()
    busy: set[int] = set()  # nodes with which something is done already

    async def one_node() -> None:
        free = [at for at in NODES if at not in busy]
        number = chance.choice(free)
        busy.add(number)
        if chance.random() < 0.5:
            await site.kill(number, chance.uniform(0, 4), forgotten=26)
        else:
            with site.trouble("stopped", number, after=1.5):
                site.nodes[number].signal(SIGSTOP)
                await asyncio.sleep(chance.uniform(0.5, 5))
                site.nodes[number].signal(SIGCONT)
        busy.discard(number)

    async def network() -> None:
        first, second = chance.sample(NODES, 2)
        seconds = chance.uniform(1, 6)
        with site.trouble("apart", first, second, after=seconds + 2):
            with site.apart(site.nodes[first].host, site.nodes[second].host):
                await asyncio.sleep(seconds)

    async def engine() -> None:
        # A node that starts needs the engine, so this one is only slow, empty or cut off from one node.
        with site.trouble("engine", after=LIVES + 2):
            await engine_trouble()

    async def engine_trouble() -> None:
        kind = chance.randrange(3)
        if kind == 0:
            await redis.run("FLUSHALL")
        elif kind == 1:
            redis.signal(SIGSTOP)
            await asyncio.sleep(chance.uniform(0.5, 3))
            redis.signal(SIGCONT)
        else:
            with site.apart(site.nodes[chance.choice(NODES)].host, redis.host):
                await asyncio.sleep(chance.uniform(1, 4))

    async def again(what: Callable[[], Awaitable[None]], times: int) -> None:
        for _ in range(times):
            await moment(chance, 0.5, 4)
            await what()

    await asyncio.gather(again(one_node, 4), again(one_node, 3), again(network, 4), again(engine, 6))
