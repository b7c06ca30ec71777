"""An episode: a site is started, transfers run while a fault is played, then everything is checked."""

import asyncio
import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.clients import Try, run_side
from cluster.engine import Engine, Sentinels, Single, until
from cluster.faults import Fault
from cluster.laws import GRACE, Row, Transfer, broken, troubles_of
from cluster.plan import Plan, SidePlan, drawn
from cluster.relay import NODES, START_LIMIT, TTL, Site
from cluster.saboteur import sabotage
from cluster.wire import Cut, Unconnected, ask, error_name
from harness import FAILURES, Pair, check
from network import Host, Router

HANGS_AFTER = 30.0  # seconds after the fault's end
AT_ONCE = 32  # transfers that nothing troubles
MOST_AT_ONCE = 300
RECOVERS_WITHIN = 5.0
SPARE_DESCRIPTORS = 24


@dataclass(frozen=True)
class Setting:
    """What all episodes of a run share."""

    program: list[str]
    haproxy: str
    router: Router
    nodes: list[Host]
    engines: list[Host]
    pair: Pair
    folder: Path


@dataclass
class Result:
    row: Row = field(default_factory=Row)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def engine_for(setting: Setting, fault: Fault, folder: Path) -> Engine:
    if fault.sentinels:
        return Sentinels(setting.engines, folder)
    return Single(setting.engines[0], folder, *fault.engine_options)


class Episode:
    """One site, one fault, and its transfers."""

    def __init__(self, setting: Setting, fault: Fault, folder: Path, seed: str, rate: float, least: int,
                 saboteur: str = "") -> None:
        self.setting, self.fault, self.seed = setting, fault, seed
        self.rate, self.least, self.saboteur = rate, least, saboteur
        self.result = Result()
        self.transfers: list[Transfer] = []
        self.running: set[asyncio.Task[None]] = set()
        engine = engine_for(setting, fault, folder)
        self.site = Site(setting.program, setting.router, setting.nodes, engine, folder, setting.pair, fault.options)
        self._names: list[str] = []  # of paths, free again
        self._lag = 0.0

    async def run(self) -> Result:
        site = self.site
        watching: list[asyncio.Task[None]] = []
        try:
            await site.start(self.setting.haproxy)
            await self.all_pair(START_LIMIT)
            before = [node.descriptors() for node in site.nodes]
            watching = [asyncio.create_task(self.watch_nodes()), asyncio.create_task(self.watch_lag())]
            async with sabotage(site, self.saboteur):
                await self.play()
            await self.settle(before)
        except FAILURES as failure:
            self.result.violations.append(f"{type(failure).__name__}: {failure}")
        finally:
            for task in [*watching, *self.running]:
                task.cancel()
            await asyncio.gather(*watching, *self.running, return_exceptions=True)
            site.end()
            self.read_logs()
        self.result.notes += site.notes
        if self.result.row.longest > TTL + 2:
            self.result.notes.append(f"the longest wait:\n      {self.result.row.longest_story}\n   ")
        if self.result.row.late_receipts:
            self.result.notes.append(f"{self.result.row.late_receipts} × 502 for a whole body through HAProxy")
        if self._lag > 0.5:
            self.result.notes.append(f"this program stood still for {self._lag:.1f} s")
        return self.result

    # ---------------------------------------------------------------------------------------------- load

    async def play(self) -> None:
        """Runs transfers while the fault is played, and until all nodes have recovered."""
        script = asyncio.create_task(self.script())
        load = asyncio.create_task(self.load(script))
        finished = False
        try:
            await script
            await load
            finished = True
            deadline = time.monotonic() + HANGS_AFTER
            while self.running and time.monotonic() < deadline:
                await asyncio.wait(self.running, timeout=deadline - time.monotonic())
        finally:
            script.cancel()
            hanging = list(self.running)
            if not finished:
                # What the script has found ends the episode: what still runs is not judged.
                self.transfers = [one for one in self.transfers if one.ended < math.inf]
            for task in hanging:
                task.cancel()
            load.cancel()
            await asyncio.gather(script, load, *hanging, return_exceptions=True)
            self.judge()

    async def script(self) -> None:
        await self.fault.script(self.site, random.Random(f"{self.seed} fault"))
        if self.saboteur:
            return  # what it has done is to be noticed in the transfers
        paired, seen = await asyncio.gather(self.all_pair(RECOVERS_WITHIN + GRACE), self.site.until_nodes("3/3", self.fault.settles))
        self.result.notes.append(f"all pairs of nodes after {paired:.1f} s, 3/3 after {seen:.1f} s")

    async def load(self, script: asyncio.Task[None]) -> None:
        number = 0
        while not script.done() or number < self.least:
            task = asyncio.create_task(self.transfer(number))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            number += 1
            await asyncio.sleep(1 / self.rate)
            usable = self.site.usable()
            while len(self.running) >= (AT_ONCE * 2 if len(usable) == len(NODES) else MOST_AT_ONCE):
                await asyncio.wait(self.running, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)

    async def transfer(self, number: int) -> None:
        plan = drawn(f"{self.seed} {number}", number, self.site.usable(), self.fault.most)
        transfer = Transfer(plan, time.monotonic())
        self.transfers.append(transfer)
        try:
            name = ""
            if plan.is_path:
                name = self._names.pop(0) if len(self._names) > 8 else f"/p/path-{number}"
                transfer.target = name
            else:
                await self.create(transfer)
            if transfer.target:
                await self.both_sides(plan, transfer)
            if name and transfer.is_good():
                self._names.append(name)
        finally:
            transfer.ended = time.monotonic()

    async def both_sides(self, plan: Plan, transfer: Transfer) -> None:
        site, target = self.site, transfer.target
        async with asyncio.TaskGroup() as group:
            group.create_task(run_side(site, plan, target, plan.source, True, transfer.sources))
            group.create_task(run_side(site, plan, target, plan.destination, False, transfer.destinations))

    async def both_or_neither(self, plan: Plan, transfer: Transfer) -> None:
        """Both sides of a transfer; if one is refused, the other does not wait on."""
        site, target = self.site, transfer.target
        tasks = {
            asyncio.create_task(run_side(site, plan, target, plan.source, True, transfer.sources)),
            asyncio.create_task(run_side(site, plan, target, plan.destination, False, transfer.destinations)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not any((one.end == "answered" and one.status != 200) or one.end in ("cut", "unconnected") for one in transfer.tries()):
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, transfer: Transfer) -> None:
        one = transfer.creation = Try(transfer.plan.creator, time.monotonic())
        try:
            head, body = await ask(self.site.address(one.edge), "POST", "/stream", 120)
            one.end, one.status, one.name = "answered", head.status, error_name(body)
            if head.status == 201:
                stream = body.decode().split('"')[3]
                transfer.target, transfer.tag = f"/stream/{stream}", stream[:8]
                transfer.owner = self.site.owners.get(transfer.tag)
        except Cut as error:
            one.end, one.detail = "cut", str(error)
        except Unconnected as error:
            one.end, one.detail = "unconnected", str(error)
        finally:
            one.ended = time.monotonic()

    # ------------------------------------------------------------------------------------------- checks

    def judge(self) -> None:
        """Checks the laws for each transfer."""
        for transfer in self.transfers:
            self.result.row.add(transfer)
            laws = broken(self.site, transfer)
            if laws:
                self.result.row.broken += 1
                troubles = [
                    f"{one.kind} {sorted(one.nodes)} from {one.begin - transfer.began:.2f} to {one.end - transfer.began:.2f}"
                    for one in troubles_of(self.site, transfer)
                ]
                self.result.violations.append(
                    f"transfer {transfer.plan.number}: {'; '.join(laws)}\n      {transfer.story()}\n      troubles: {troubles}"
                )

    async def all_pair(self, limit: float) -> float:
        """New streams with each owner, source and destination pair within the time. Returns the longest wait."""
        begun = time.monotonic()
        waits = [self.pairs(owner, put, get, begun + limit) for owner in NODES for put in NODES for get in NODES]
        waits += [self.pairs(None, put, get, begun + limit + TTL) for put in NODES for get in NODES]
        await asyncio.gather(*waits)
        return time.monotonic() - begun

    async def pairs(self, owner: int | None, put: int, get: int, deadline: float) -> None:
        """One small transfer, which is repeated until it succeeds."""
        stories: list[str] = []
        repeats = 0
        while True:
            plan = Plan(10**6 + repeats, owner is None, owner or 0, 100, False, 0.0, 4242 + put * 10 + get,
                        SidePlan(put, 0, False, False, 0), SidePlan(get, 0, False, False, 0))
            transfer = Transfer(plan, time.monotonic())
            left = deadline - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, 0.1)):
                    if owner is None:
                        transfer.target = f"/p/check-{put}-{get}-{begun_name(transfer)}"
                    else:
                        await self.create(transfer)
                    if transfer.target:
                        await self.both_or_neither(plan, transfer)
            transfer.ended = time.monotonic()
            if transfer.is_good():
                return
            stories.append(transfer.story())
            repeats += 1
            check(time.monotonic() < deadline, f"no new stream with owner {owner}, PUT at {put}, GET at {get} in time: {stories[-1]}")
            await asyncio.sleep(0.2)

    async def settle(self, before: list[int]) -> None:
        """All nodes see each other, and nothing is left."""
        site = self.site
        for node in site.nodes:
            node.drop_kept()
        await until(self.is_empty, "no stream is left", 2 * TTL + 15, pause=0.25)

        async def few() -> bool:
            now = [node.descriptors() for node in site.nodes]
            most = [count + SPARE_DESCRIPTORS for count in before]
            check(all(a <= b for a, b in zip(now, most, strict=True)), f"descriptors were {before}, are {now}")
            return True

        await until(few, "descriptors are given back", 20)

    async def is_empty(self) -> bool:
        for node in self.site.nodes:
            _, body = await ask(node.address, "GET", "/stream", 5)
            check(body == b"[]", f"node {node.number} lists {body[:600]!r}")
        return True

    async def watch_nodes(self) -> None:
        """A node ends only if it is killed or asked to."""
        known: set[int] = set()
        while True:
            for node in self.site.nodes:
                if node.process and not node.may_end and not node.runs() and node.process.pid not in known:
                    known.add(node.process.pid)
                    self.result.violations.append(f"law 9: node {node.number} ended with {node.process.returncode}")
            await asyncio.sleep(0.2)

    async def watch_lag(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.1)
            self._lag = max(self._lag, time.monotonic() - begun - 0.1)

    def read_logs(self) -> None:
        for node in self.site.nodes:
            if node.log.exists():
                self.result.violations += [
                    f"law 9: node {node.number}: {line}"
                    for line in node.log.read_text(errors="replace").splitlines()
                    if "panicked" in line
                ]


def begun_name(transfer: Transfer) -> str:
    return f"{transfer.began:.6f}"
