"""What the experiments share: running clients, trees of files, our clients beside other programs."""

import argparse
import filecmp
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from harness import LOOPBACK, PATIENCE, Process, Server, Tally, check, child, output_of, serving, wait_until

LIMIT = 600.0  # seconds for any transfer


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="transfers-") as name:
        yield Path(name)


def url_of(server: Server) -> str:
    return f"http://{LOOPBACK}:{server.port}"


# --------------------------------------------------------------------------------------------------- clients


@dataclass
class Client:
    """A running `send` or `recv`, and the JSON lines that it has printed."""

    process: Process
    meter: Callable[[], int] | None = None  # read at each event
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in output_of(self.process):
            event = json.loads(line)
            if self.meter:
                event["meter"] = self.meter()
            self.events.append(event)

    def last(self, event: str) -> dict[str, Any] | None:
        return next((line for line in reversed(self.events) if line["event"] == event), None)

    def link(self) -> str:
        line = wait_until(lambda: self.last("link") or self.last("end"), lambda line: line is not None, "a link")
        check(line is not None and "link" in line, f"send ended instead of printing a link: {line}")
        return str(line["link"]) if line else ""

    def position(self) -> int:
        """How much it has sent, or received."""
        last = self.last("sent") or self.last("received")
        return int(last["bytes"]) if last else 0

    def wait(self) -> None:
        """Waits until it has ended and all its lines are in `events`."""
        self.process.wait(LIMIT)
        self._reader.join(PATIENCE)

    def end(self) -> dict[str, Any]:
        """Waits for its end, and returns the event that reports it."""
        self.wait()
        ended = self.last("end")
        check(ended is not None, f"{self.process.args!r} ended with {self.process.returncode} and no event")
        return ended or {}


def environment(folder: Path) -> dict[str, str]:
    """No setting of the caller, and a state folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RENDEZVOUS_")}
    return kept | {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_STATE_HOME": str(folder / "state"),
    }


@contextmanager
def client(
    program: str,
    folder: Path,
    *arguments: str | Path,
    inside: Callable[[], AbstractContextManager[None]] = nullcontext,
    meter: Callable[[], int] | None = None,
    **how: Any,
) -> Iterator[Client]:
    """Starts `send` or `recv`, in the block of `inside`, and kills it at the end."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | how
    with ExitStack() as stack:
        with inside():
            process = stack.enter_context(
                child(program, arguments[0], "--json", *arguments[1:], env=environment(folder), cwd=folder, **options)
            )
        yield Client(process, meter)


def transfer(program: str, relay: str, folder: Path, *source: str | Path, target: Path, **how: Any) -> None:
    """Sends and receives once. Both must end well."""
    with client(program, folder, "send", "--to", relay, *source, **how) as sender:
        with client(program, folder, "recv", sender.link(), "-o", target) as receiver:
            got, sent = receiver.end(), sender.end()
    check(got["code"] == 0 and sent["code"] == 0, f"sender {sent}, receiver {got}")


# ----------------------------------------------------------------------------------------------------- trees


def sha256_of(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def listing(tree: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and content of everything in a tree. The time of a link is not sent."""
    found: dict[str, tuple[int, int, str]] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(tree))] = (0, 0, "-> " + os.readlink(path))
        else:
            content = sha256_of(path) if path.is_file() else "directory"
            found[str(path.relative_to(tree))] = (status.st_mode & 0o777, int(status.st_mtime), content)
    return found


def is_copy(source: Path, target: Path) -> bool:
    """Whether two files have the same bytes, or two trees the same listing."""
    if source.is_dir():
        return listing(source) == listing(target)
    return filecmp.cmp(source, target, shallow=False)


def remove(path: Path) -> None:
    """Removes a file or a tree."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def small_files(tree: Path, count: int, chance: random.Random) -> None:
    """Files of 1 to 4096 bytes, some hundred in a directory."""
    for number in range(count):
        directory = tree / f"d{number // 200}"
        if number % 200 == 0:
            directory.mkdir(parents=True)
        file = directory / f"file-{number}"
        file.write_bytes(chance.randbytes(chance.randrange(1, 4096)))
        os.utime(file, (1_600_000_000 + number, 1_600_000_000 + number))


# ------------------------------------------------------------------------------------------- other programs


def new_identity(keygen: str, folder: Path) -> tuple[Path, str]:
    """Makes a key of age. Returns the file of the identity, and the recipient."""
    key = subprocess.run((keygen,), check=True, capture_output=True, text=True).stdout
    identity = folder / "identity"
    identity.write_text(key)
    return identity, key.partition("public key: ")[2].split()[0]


SEND_RECV = (
    '"$1" send "$2" --to "$3" --quiet > link & while ! [ -s link ]; do sleep 0.01; done; '
    '"$1" recv "$(cat link)" -o "$4" --quiet > /dev/null; wait $!; rm link'
)
# The other programs take a new stream of the same relay.
NEW_STREAM = 'id=$(curl -fsS -X POST "$3/stream" | cut -d\'"\' -f4); '


def timed(command: str, *arguments: str | Path, folder: Path) -> tuple[float, float]:
    """Runs a shell script. Returns its seconds, and the CPU seconds of all its processes."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(("sh", "-ec", command, "sh", *map(str, arguments)), check=True, env=environment(folder), cwd=folder)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(
    options: argparse.Namespace, tally: Tally, theirs: str, folder: Path, source: Path, *more: str | Path
) -> float:
    """Runs our clients and the script `theirs` in turns. Returns the median of their seconds in relation to ours.

    A script gets the program, the source, the relay, the target and `more` as its arguments.
    """
    ratios, cpu_ratios = [], []
    with serving(options.server) as server:
        for number in range(1 if options.quick else 5):
            taken = {}
            for how, script in (("ours", SEND_RECV), ("theirs", NEW_STREAM + theirs)):
                target = folder / f"{how}-{number}"
                taken[how] = timed(script, options.server[0], source, url_of(server), target, *more, folder=folder)
                check(is_copy(source, target), f"{how}: not the same")
                remove(target)
            (our, our_cpu), (their, their_cpu) = taken["ours"], taken["theirs"]
            ratios.append(their / our)
            cpu_ratios.append(their_cpu / our_cpu)
            print(f"  ours {our:.2f} s ({our_cpu:.2f} s of CPU), theirs {their:.2f} s ({their_cpu:.2f} s)", flush=True)
    tally.notes.append(f"speed to theirs: {median(ratios):.2f}, CPU {median(cpu_ratios):.2f}")
    return median(ratios)
