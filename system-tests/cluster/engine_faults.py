"""Faults of the engine: its processes, its data, its clock and its networks."""

import asyncio
import random
from signal import SIGCONT, SIGKILL, SIGSTOP

from cluster.engine import SERVICE, Sentinels, until
from cluster.moments import KEY, LIVES, moment, recovery
from cluster.relay import NODES, Site
from harness import check


async def kill_engine(site: Site, chance: random.Random) -> None:
    """the engine is killed and comes back empty, after some seconds, twice"""
    for seconds in (chance.uniform(0, 2), chance.uniform(8, 15)):
        await moment(chance)
        await engine_gone(site, seconds)


async def engine_gone(site: Site, seconds: float) -> None:
    (redis,) = site.engine.all()
    redis.signal(SIGKILL)
    await asyncio.sleep(seconds)
    await redis.start()
    await recovery(site)


async def engine_away(site: Site, chance: random.Random) -> None:
    """the engine is gone for 60 s, and comes back empty"""
    await moment(chance)
    await engine_gone(site, 60)


async def engine_away_node_killed(site: Site, chance: random.Random) -> None:
    """the engine is gone, and a node is killed meanwhile, which joins when the engine returns"""
    await moment(chance)
    (redis,) = site.engine.all()
    redis.signal(SIGKILL)
    await moment(chance, 2, 4)
    number = chance.choice(NODES)
    with site.trouble("dead", number):
        site.list_changes(60)
        changes = site.troubles[-1]
        site.dead_tags[site.nodes[number].tags[-1]] = asyncio.get_running_loop().time()
        site.nodes[number].kill()
        await moment(chance, 5, 12)
        await redis.start()
        await recovery(site, [at for at in NODES if at != number])
        await site.restart(site.nodes[number])
        changes.end = asyncio.get_running_loop().time() + LIVES + 4


async def stop_engine(site: Site, chance: random.Random) -> None:
    """the engine is stopped by SIGSTOP for 1, 3 and 20 s"""
    (redis,) = site.engine.all()
    for seconds in chance.sample((1, 3, 20), 3):
        await moment(chance)
        redis.signal(SIGSTOP)
        await asyncio.sleep(seconds)
        redis.signal(SIGCONT)
        await recovery(site)


async def flush(site: Site, chance: random.Random) -> None:
    """FLUSHALL, ten times"""
    for _ in range(10):
        await moment(chance, 0.1, 2.0)
        await (await site.engine.primary()).run("FLUSHALL")


async def cut_engine(site: Site, chance: random.Random) -> None:
    """a node is cut off from the engine only, for 5 and 25 s"""
    for seconds in chance.sample((5, 25), 2):
        await moment(chance)
        await cut_one(site, chance.choice(NODES), seconds)


async def cut_engine_long(site: Site, chance: random.Random) -> None:
    """a node is cut off from the engine only, for 90 s: longer than nodes that left are remembered"""
    await moment(chance)
    await cut_one(site, chance.choice(NODES), 90)


async def cut_one(site: Site, number: int, seconds: float) -> None:
    (redis,) = site.engine.all()
    with site.apart(site.nodes[number].host, redis.host):
        await asyncio.sleep(seconds)
    await recovery(site)


# All times in the directory, moved: to its script that is the same as a clock which was set. The engine itself must not run under another
# clock, because libfaketime and jemalloc call each other.
MOVE = """
local moved = 0
local hash = redis.call('HGETALL', KEYS[1])
for at = 1, #hash, 2 do
    local field, value = hash[at], hash[at + 1]
    local time, rest = string.match(value, '^(%d+)(.*)$')
    if time and field ~= '#number' then
        redis.call('HSET', KEYS[1], field, string.format('%.0f', tonumber(time) - tonumber(ARGV[1])) .. rest)
        moved = moved + 1
    end
end
return moved
"""


async def clock(site: Site, chance: random.Random) -> None:
    """the engine's clock jumps by an hour, forth and back (all times in the directory are moved instead)"""
    (redis,) = site.engine.all()
    for seconds in (3600, -3600, 60, -60, 3600, 12, -7200):
        await moment(chance, 1, 3)
        moved = await redis.run("EVAL", MOVE, 1, KEY, seconds * 1000)
        check(moved >= len(NODES) + 2, f"the directory has {moved} times")
    await moment(chance, 3, 4)


async def evict(site: Site, chance: random.Random) -> None:
    """the engine evicts everything (allkeys-lru), eight times"""
    (redis,) = site.engine.all()
    for _ in range(8):
        await moment(chance, 0.3, 2)
        await redis.run("CONFIG", "SET", "maxmemory", "100kb")
        await asyncio.sleep(chance.choice((0.0, 0.5, 2.5)))
        with_room = await redis.info("stats")
        await redis.run("CONFIG", "SET", "maxmemory", "100mb")
    check(int(with_room["evicted_keys"]) > 0, "the engine has evicted nothing")


async def failover(site: Site, chance: random.Random) -> None:
    """sentinels fail over: when asked to, when the primary is killed, and when it is cut off and its writes are lost"""
    engine = site.engine
    assert isinstance(engine, Sentinels)
    kinds = [failover_asked, failover_killed, failover_cut]
    for kind in chance.sample(kinds, len(kinds)):
        await moment(chance)
        before = await engine.primary()
        await kind(site, engine, chance)

        async def moved(before: object = before) -> bool:
            return await engine.primary() is not before

        await until(moved, "another primary", 30)
        await recovery(site)
        await until(engine.is_whole, "three engines with replicas", 60)


async def failover_asked(_site: Site, engine: Sentinels, _chance: random.Random) -> None:
    await engine.sentinels[0].run("SENTINEL", "FAILOVER", SERVICE)


async def failover_killed(_site: Site, engine: Sentinels, _chance: random.Random) -> None:
    old = await engine.primary()
    old.signal(SIGKILL)
    await until(lambda: engine.moved_from(old), "the sentinels choose another", 30)
    await old.start()  # as the primary that it was, until a sentinel tells it


async def failover_cut(site: Site, engine: Sentinels, chance: random.Random) -> None:
    """The nodes still reach the old primary: what they write there is lost."""
    old = await engine.primary()
    one, two = (server.host for server in engine.servers if server is not old)
    with site.apart(old.host, one), site.apart(old.host, two):
        await until(lambda: engine.moved_from(old), "the sentinels choose another", 30)
        await moment(chance, 1, 8)
