"""Receivers are killed at random moments: `send -` says stored only if the file is there, with all its bytes."""

import argparse
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from harness import MIB, Tally, check, child, serving, write_random
from transfers.shared import Client, client, environment, scratch_folder, sha256_of, url_of

KILLS = 100
AT_ONCE = 4  # most of a trial is waiting: for the moment of the kill, and for the sender to give up
SCRIPT = """cat "$1" | "$2" send - --json --give-up 1s --to "$3" && echo '{"event":"stored"}'"""


def run(options: argparse.Namespace, tally: Tally) -> None:
    chance = random.Random(options.seed)
    moments = [chance.uniform(0, 1.5) for _ in range(KILLS // 5 if options.quick else KILLS)]
    said: list[bool] = []
    with scratch_folder() as folder, serving(options.server) as server:
        source = folder / "source"
        digest = write_random(source, 8 * MIB)

        def kill(number: int) -> None:
            own = folder / str(number)
            own.mkdir()
            with tally.trial(f"kill {number}"):
                said.append(says_stored(options.server[0], url_of(server), own, source, digest, moments[number]))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(kill, range(len(moments))))
        with tally.trial("a receiver that lives"):
            own = folder / "lives"
            own.mkdir()
            check(says_stored(options.server[0], url_of(server), own, source, digest, 120), "the sender does not say stored")
    tally.notes.append(f"{said.count(True)} times stored")


def says_stored(program: str, relay: str, folder: Path, source: Path, digest: str, moment: float) -> bool:
    """Kills the receiver after so many seconds. Returns whether the sender says stored, which must then be true."""
    target = folder / "target"
    with child(
        "sh", "-c", SCRIPT, "sh", source, program, relay, stdout=subprocess.PIPE, env=environment(folder)
    ) as shell:
        sender = Client(shell)
        with client(program, folder, "recv", sender.link(), "-o", target) as receiver:
            with suppress(subprocess.TimeoutExpired):
                receiver.process.wait(moment)
        sender.wait()
        said = sender.last("stored") is not None
    if said:
        check(target.exists(), "it says stored, and there is no file")
        check(sha256_of(target) == digest, "it says stored, and the file has other bytes")
    target.unlink(missing_ok=True)
    return said
