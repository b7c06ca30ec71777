#!/usr/bin/env python3
"""Chaos with nodes: transfers through a cluster whose nodes, networks and engine fail (Linux, iproute2, curl, redis-server, HAProxy).

Three nodes and the engine run on hosts of their own, which are network namespaces, with HAProxy in front of the nodes. Each
episode plays one fault while transfers run at random nodes, and checks the laws of docs/reliability.md after each transfer. A
failure prints what repeats it, and keeps the logs of its nodes.

Needs root, or the right to make user namespaces. Without either it prints SKIPPED, which --must-run makes a failure.
"""

import argparse
import asyncio
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from cluster.episode import Episode, Setting
from cluster.faults import FAULTS
from cluster.laws import Row
from cluster.saboteur import KINDS
from harness import ROOT, new_pair
from network import Router, become_a_host, closing
from packages import Packages, add_packages_argument


# The faults under which the saboteurs of a self check have something to do. The others need none.
SABOTAGED = {"clean-end": "kill-two", "lie": "kill-two", "late": "part-nodes", "strange": "kill-two"}


def options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    server = shlex.quote(str(ROOT / "target/release/rendezvous"))
    parser.add_argument("--server", default=server, metavar="PROGRAM", help="the relay; flags may follow it")
    parser.add_argument("--transfers", type=int, default=10000, metavar="N", help="how many in all, at least")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), metavar="N", help="repeats the choices of a run")
    parser.add_argument("--only", action="append", choices=[*FAULTS], help="play this fault only; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the faults")
    parser.add_argument("--rate", type=float, default=15, metavar="N", help="transfers that begin in a second")
    parser.add_argument("--episode", type=int, metavar="N", help="play this episode of the run only")
    help = "break each law on purpose, which must be noticed; with a KIND only that"
    parser.add_argument("--self-check", nargs="?", const="all", choices=["all", *KINDS], metavar="KIND", help=help)
    parser.add_argument("--must-run", action="store_true", help="fail where this cannot run")
    parser.add_argument("--keep", action="store_true", help="keep all logs")
    add_packages_argument(parser)
    chosen = parser.parse_args()
    path, *flags = shlex.split(chosen.server)
    if not chosen.list and not Path(path).is_file():
        parser.error(f"there is no {path}: `cargo build --release` builds it, and --server names another")
    chosen.server = [str(Path(path).resolve()), *flags]
    return chosen


def table(rows: dict[str, Row]) -> str:
    lines = [f"{'fault':<16}{'transfers':>10}{'delivered':>10}{'cut':>6}{'broken':>7}{'longest':>9}  told"]
    for name, row in rows.items():
        told = ", ".join(f"{count} × {what}" for what, count in row.told.most_common())
        figures = f"{row.transfers:>10}{row.delivered:>10}{row.cut:>6}{row.broken:>7}{row.longest:>8.1f}s"
        lines.append(f"{name:<16}{figures}  {told}")
    return "\n".join(lines)


def play_all(chosen: argparse.Namespace, setting: Setting) -> int:
    names = chosen.only or [*FAULTS]
    rows: dict[str, Row] = {}
    failed, number = 0, chosen.episode or 0
    while sum(row.transfers for row in rows.values()) < chosen.transfers or (number < len(names) and not chosen.only):
        name = names[number % len(names)]
        folder = setting.folder / f"episode-{number}-{name}"
        folder.mkdir(parents=True)
        seed, begun = f"{chosen.seed} {number}", time.monotonic()
        episode = Episode(setting, FAULTS[name], folder, seed, chosen.rate, 100)
        result = asyncio.run(episode.run())
        row = rows.setdefault(name, Row())
        row.merge(result.row)
        took = time.monotonic() - begun
        print(f"episode {number}, {name}: {result.row.transfers} transfers in {took:.0f} s, {'; '.join(result.notes)}", flush=True)
        for violation in result.violations[:8]:
            print(f"  broken, --seed {chosen.seed} --only {name} --episode {number}: {violation}", flush=True)
        if len(result.violations) > 8:
            print(f"  and {len(result.violations) - 8} more", flush=True)
        failed += len(result.violations)
        if result.violations:
            print(f"  logs: {folder}", flush=True)
        elif not chosen.keep:
            shutil.rmtree(folder)
        number += 1
        if chosen.episode is not None or not result.row.transfers:
            break
    print(table(rows))
    print(f"{sum(row.transfers for row in rows.values())} transfers, {failed} broken laws")
    return 1 if failed else 0


def check_self(chosen: argparse.Namespace, setting: Setting) -> int:
    """Plays a fault with a proxy in front of a node that breaks a law. Each must be noticed."""
    missed = 0
    for kind, law in KINDS.items():
        if chosen.self_check not in ("all", kind):
            continue
        name = SABOTAGED.get(kind, "calm")
        folder = setting.folder / f"self-check-{kind}"
        folder.mkdir(parents=True)
        episode = Episode(setting, FAULTS[name], folder, f"{chosen.seed} {kind}", chosen.rate, 100, saboteur=kind)
        violations = asyncio.run(episode.run()).violations
        noticed = sum(law in violation for violation in violations)
        print(f"{kind}: {noticed} of {len(violations)} complaints say {law!r}{'' if noticed else ': NOT NOTICED'}", flush=True)
        missed += not noticed
        if not noticed:
            print("\n".join(violations[:3]))
        shutil.rmtree(folder)
    return 1 if missed else 0


def main() -> int:
    chosen = options()
    if chosen.list:
        for name, fault in FAULTS.items():
            print(f"{name:<16} {fault.doc()}")
        return 0
    packages = Packages(chosen.packages)
    packages.provide(["haproxy", "redis-server"])
    os.environ["PATH"] = packages.path()
    os.nice(5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        become_a_host()
    except OSError as error:
        if chosen.must_run:
            raise
        print(f"SKIPPED: {error}")
        return 0
    print(f"seed {chosen.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    with closing(Router()) as router:
        hosts = [router.host() for _ in range(6)]
        try:
            pair = new_pair(folder / "tls", "node")
            haproxy = packages.program("haproxy") or "haproxy"
            setting = Setting(chosen.server, haproxy, router, hosts[:3], hosts[3:], pair, folder)
            return check_self(chosen, setting) if chosen.self_check else play_all(chosen, setting)
        finally:
            for host in hosts:
                host.end()
            if not any(folder.glob("episode-*")):
                shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
