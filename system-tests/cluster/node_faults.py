"""Faults of nodes and of the networks between them."""

import asyncio
import random
from signal import SIGCONT, SIGSTOP, SIGTERM

from cluster import guests
from cluster.engine import until
from cluster.moments import LIVES, moment
from cluster.relay import DRAIN, NODES, Node, Site
from harness import check


async def calm(_site: Site, chance: random.Random) -> None:
    """nothing fails"""
    await moment(chance, 8, 12)


async def kill_node(site: Site, chance: random.Random) -> None:
    """a node is killed by SIGKILL and started again, three times"""
    for _ in range(3):
        await moment(chance)
        await site.kill(chance.choice(NODES), chance.choice((0.0, 0.5, 2.0, 5.0)))


async def kill_two(site: Site, chance: random.Random) -> None:
    """two nodes are killed at the same time, and started again"""
    for _ in range(2):
        await moment(chance)
        first, second = chance.sample(NODES, 2)
        # Nobody is removed for 10 s when several records vanish together.
        await asyncio.gather(*(site.kill(one, chance.uniform(0, 3), forgotten=26) for one in (first, second)))


async def stop_node(site: Site, chance: random.Random) -> None:
    """a node is stopped by SIGSTOP for 1, 3 and 20 s"""
    for seconds in chance.sample((1, 3, 20), 3):
        await moment(chance)
        number = chance.choice(NODES)
        if seconds + 2 > LIVES:
            site.list_changes(seconds + 6)
        # Requests that came meanwhile are answered once it continues, and others have to hear it again.
        with site.trouble("stopped", number, after=1.5):
            site.nodes[number].signal(SIGSTOP)
            await asyncio.sleep(seconds)
            site.nodes[number].signal(SIGCONT)


async def vanish(site: Site, chance: random.Random) -> None:
    """a node's host is cut off from everything for 4 and 20 s"""
    for seconds in chance.sample((4, 20), 2):
        await moment(chance)
        number = chance.choice(NODES)
        if seconds + 2 > LIVES:
            site.list_changes(seconds + 6)
        # Afterwards a kernel sends again what was not acknowledged: after as long a pause as before, at most.
        with site.trouble("vanished", number, after=seconds + 2):
            host = site.nodes[number].host
            host.cut()
            await asyncio.sleep(seconds)
            host.repair()


async def roll(site: Site, chance: random.Random) -> None:
    """the nodes are restarted by SIGTERM, one after the other"""
    for number in chance.sample(NODES, len(NODES)):
        await moment(chance, 0.5, 1.5)
        node = site.nodes[number]
        with site.trouble("draining", number):
            node.may_end = True
            node.signal(SIGTERM)

            async def ended(node: Node = node) -> bool:
                return not node.runs()

            await until(ended, f"node {number} ends", DRAIN + 10)
        check(node.process is not None and node.process.returncode == 0, f"node {number} ended with {node.process}")
        site.dead_tags[node.tags[-1]] = asyncio.get_running_loop().time()
        with site.trouble("gone", number):
            await site.restart(node)


async def part_nodes(site: Site, chance: random.Random) -> None:
    """the network between two nodes drops everything for 1, 5 and 20 s"""
    for seconds in chance.sample((1, 5, 20), 3):
        await moment(chance)
        first, second = chance.sample(NODES, 2)
        with site.trouble("apart", first, second, after=seconds + 2):
            with site.apart(site.nodes[first].host, site.nodes[second].host):
                await asyncio.sleep(seconds)


async def same_address(site: Site, chance: random.Random) -> None:
    """a fourth node advertises the address of another one"""
    site.has_guests = True
    await moment(chance)
    with site.trouble("list"):
        # Who meets the wrong one, or its paths, is refused. The ids of the three are not its.
        victim = chance.choice(NODES)
        site.list_changes(40)
        changes = site.troubles[-1]
        async with guests.node(site, (victim + 1) % 3, "--cluster-advertise", f"{site.nodes[victim].host.address}:7780"):
            await moment(chance, 8, 10)
        await asyncio.sleep(LIVES + 2)  # its record expires
        changes.end = asyncio.get_running_loop().time()
