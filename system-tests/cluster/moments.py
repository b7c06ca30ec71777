"""What the scripts of faults share."""

import asyncio
import random

from cluster import guests
from cluster.engine import until
from cluster.relay import Site

RECOVERS_WITHIN = 5.0 + 2.0  # seconds after the engine's return, with some for a busy machine
LIVES = 10.0  # seconds: a record that is not renewed
KEY = "rv:{rendezvous}:nodes"


async def moment(chance: random.Random, least: float = 0.5, most: float = 3.0) -> None:
    """Lets transfers run."""
    await asyncio.sleep(chance.uniform(least, most))


async def recovery(site: Site, numbers: list[int] | None = None) -> None:
    """The engine is there again: each node reads the list again in time."""
    begun = asyncio.get_running_loop().time()
    await until(lambda: guests.all_read(site, 1.5, numbers), "the nodes read the list again", RECOVERS_WITHIN)
    site.notes.append(f"the list was read again after {asyncio.get_running_loop().time() - begun:.1f} s")
