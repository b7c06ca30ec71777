"""The faults: each is played at random moments while transfers run, and has ended when its function returns."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cluster import engine_faults, node_faults, other_faults
from cluster.relay import Site
from harness import MIB

Script = Callable[[Site, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A fault, and the site that it needs."""

    script: Script
    sentinels: bool = False
    options: tuple[str, ...] = ()  # of the nodes
    engine_options: tuple[str, ...] = ()
    most: int = 64 * MIB  # bytes of a transfer
    settles: float = 15.0  # seconds until all nodes see each other again

    def doc(self) -> str:
        return (self.script.__doc__ or "").strip().splitlines()[0]


FAULTS: dict[str, Fault] = {
    "calm": Fault(node_faults.calm),
    "kill-node": Fault(node_faults.kill_node),
    "kill-engine": Fault(engine_faults.kill_engine),
    "stop-node": Fault(node_faults.stop_node),
    "flush": Fault(engine_faults.flush),
    "part-nodes": Fault(node_faults.part_nodes),
    "roll": Fault(node_faults.roll),
    "failover": Fault(engine_faults.failover, sentinels=True),
    "cut-engine": Fault(engine_faults.cut_engine),
    "cut-engine-long": Fault(engine_faults.cut_engine_long),
    "early": Fault(other_faults.early, options=("--max-stream-bytes", "2m"), most=MIB),
    "kept": Fault(other_faults.kept),
    "clock": Fault(engine_faults.clock),
    "evict": Fault(engine_faults.evict, engine_options=("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")),
    "forge": Fault(other_faults.forge),
    "two-clusters": Fault(other_faults.two_clusters),
    "same-address": Fault(node_faults.same_address),
    "vanish": Fault(node_faults.vanish),
    "kill-two": Fault(node_faults.kill_two, settles=27),
    "stop-engine": Fault(engine_faults.stop_engine),
    "engine-away": Fault(engine_faults.engine_away),
    "storm": Fault(other_faults.storm, settles=30),
    "engine-and-node": Fault(engine_faults.engine_away_node_killed),
}
