"""The tests that must fail for a mutant: which there are, which of them reach a function, and whether they fail.

Runs the test binaries directly: many tests in one process, ended with the first that fails. All waits count the seconds in which this
script runs, so that it may be stopped for a while.
"""

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from harness import GIB, Process, not_over_tls, output_of
from schemata import Tree

CRATES = ("rendezvous-codec", "rendezvous-core", "rendezvous-net", "rendezvous-server")
# With the same packages in each call, cargo builds each dependency once.
PACKAGES = (*CRATES, "fuzz-targets", "http-rendezvous")
# Seconds in which no test ends, besides four times what the slowest takes without a mutant; and when it is tried again.
PATIENCE = 12.0
SECOND_PATIENCE = 24.0
BASELINE_PATIENCE = 600.0
# A mutant that allocates in a loop is aborted.
MEMORY = 4 * GIB
RESULT = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)")
# Seconds from which a test is run behind the others of its suite.
SLOW = 1.0


@dataclass(frozen=True)
class Suite:
    """Tests that run in the same environment."""

    name: str
    targets: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, hash=False)
    # Flags of rustc.
    flags: str = ""
    # Only tests whose name contains `only`, and none of `skipped`.
    only: str = ""
    skipped: tuple[str, ...] = ()
    # The crates that the suite tests.
    crates: tuple[str, ...] = CRATES

    def has(self, test: str) -> bool:
        return self.only in test and not any(name in test for name in self.skipped)


def suites() -> list[Suite]:
    """Quick tests first."""
    return [
        Suite("unit tests", ("--lib",)),
        Suite("wire", ("--test=wire",)),
        Suite("wire over TLS", ("--test=wire",), {"RENDEZVOUS_TRANSPORT": "tls"}, skipped=tuple(not_over_tls())),
        Suite("wire without splice", ("--test=wire",), {"RENDEZVOUS_DATA_PATH": "copy"}),
        Suite("others", ("--test=slot", "--test=scripts", "--test=transcripts", "--test=fuzz", "--test=program")),
        Suite("interleavings", ("--lib",), flags="--cfg shuttle", only="interleavings", crates=("rendezvous-core",)),
    ]


@dataclass(frozen=True)
class Binary:
    """A test binary of one build."""

    path: Path
    directory: Path

    def tests(self) -> list[str]:
        listed = subprocess.run([self.path, "--list", "--format=terse"], check=True, stdout=subprocess.PIPE, text=True)
        ignored = subprocess.run(
            [self.path, "--list", "--format=terse", "--ignored"], check=True, stdout=subprocess.PIPE, text=True
        )
        return [
            line.removesuffix(": test")
            for line in listed.stdout.splitlines()
            if line.endswith(": test") and line not in ignored.stdout.splitlines()
        ]


@dataclass(frozen=True)
class Test:
    suite: Suite
    # The crate, or the file of integration tests.
    target: str
    name: str

    def __str__(self) -> str:
        return f"{self.suite.name}: {self.target} {self.name}"


Binaries = dict[str, Binary]


def build(tree: Tree, suite: Suite) -> Binaries:
    """The binaries of the suite, by target."""
    packages = suite.crates if suite.flags else PACKAGES
    chosen = (*(f"-p={name}" for name in packages), *suite.targets)
    done, messages = tree.cargo("test", "--no-run", "--locked", *chosen, flags=suite.flags)
    if not done:
        raise ValueError(f"{suite.name} cannot be built")
    return {
        message["target"]["name"]: Binary(Path(message["executable"]), Path(message["manifest_path"]).parent)
        for message in messages
        if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]
    }


class Ending(Enum):
    """How a run of tests ended. The values complete "a test …"."""

    PASSED = "passes"
    FAILED = "fails"
    ABORTED = "aborts"
    HANGS = "hangs"


@dataclass
class Run:
    ending: Ending
    passed: set[str]
    # The tests that failed, or that had not ended.
    suspects: list[Test]


def play(tests: Sequence[Test], binary: Binary, variables: dict[str, str], threads: int, patience: float) -> Run:
    """Runs tests of one binary until the first fails, or until none ends for as long as `patience`."""
    # The tests end with this script. Some send SIGINT, which a program in the background of a shell would ignore.
    limits = ["env", "--default-signal=INT", "prlimit", f"--data={MEMORY}", "setpriv", "--pdeathsig=KILL"]
    command = [*limits, str(binary.path), "--exact", f"--test-threads={threads}"]
    environment = os.environ | {"INSTA_UPDATE": "no", **tests[0].suite.environment, **variables}
    with subprocess.Popen(
        [*command, *(test.name for test in tests)],
        cwd=binary.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return watched(process, tests, patience)
        finally:
            # Programs that the tests have started, too.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def watched(process: Process, tests: Sequence[Test], patience: float) -> Run:
    """Follows what the binary prints."""
    output = output_of(process).fileno()
    passed: set[str] = set()
    line, silent = b"", 0.0

    def unfinished() -> list[Test]:
        return [test for test in tests if test.name not in passed]

    while silent < patience:
        if not select.select([output], [], [], 1.0)[0]:
            # A second of this script's own time, even if it was stopped for longer.
            silent += 1
            if process.poll() is None:
                continue
        data = os.read(output, 1 << 16) if select.select([output], [], [], 0)[0] else b""
        if not data:
            if process.wait() == 0:
                return Run(Ending.PASSED, {test.name for test in tests}, [])
            return Run(Ending.ABORTED, passed, unfinished() or list(tests))
        *lines, line = (line + data).split(b"\n")
        for result in filter(None, (RESULT.match(text.decode(errors="replace")) for text in lines)):
            silent = 0.0
            if result[2] == "FAILED":
                return Run(Ending.FAILED, passed, [test for test in tests if test.name == result[1]])
            passed.add(result[1])
    return Run(Ending.HANGS, passed, unfinished())


@dataclass
class Baseline:
    """What the tests do without a mutant."""

    seconds: dict[Test, float] = field(default_factory=dict)
    reached: dict[Test, frozenset[int]] = field(default_factory=dict)
    failed: list[Test] = field(default_factory=list)


def first_failure(
    tests: Sequence[Test], binary: Binary, variables: dict[str, str], threads: int, baseline: Baseline
) -> tuple[Test, Ending] | None:
    """The test that fails, does so again by itself, and then passes without the mutant."""
    remaining = list(tests)
    while remaining:
        usual = 4 * max(baseline.seconds[test] for test in remaining)
        run = play(remaining, binary, variables, threads, PATIENCE + usual)
        if run.ending is Ending.PASSED:
            return None
        again = play(run.suspects, binary, variables, threads, SECOND_PATIENCE + usual)
        if again.ending is not Ending.PASSED:
            found = again.suspects[0]
            # On a busy machine a test may also fail twice without the mutant. One built alone cannot be switched off.
            if not variables or play([found], binary, {}, threads, SECOND_PATIENCE + usual).ending is Ending.PASSED:
                return found, again.ending
        remaining = [test for test in remaining if test.name not in run.passed and test not in run.suspects]
    return None


def measure(suite: Suite, binaries: Binaries, jobs: int, cache: Path, baseline: Baseline) -> None:
    """Runs each test of the suite by itself. A binary that has not changed since is not run again."""
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    for target, binary in binaries.items():
        key = f"{suite.name} {target} {binary.path} {binary.path.stat().st_mtime_ns}"
        tests = [Test(suite, target, name) for name in binary.tests() if suite.has(name)]
        if key not in known:
            with ThreadPoolExecutor(jobs) as pool:
                known[key] = list(pool.map(lambda test: alone(test, binary, cache), tests))
            cache.write_text(json.dumps(known))
        for test, (seconds, reached) in zip(tests, known[key], strict=True):
            if seconds is None:
                baseline.failed.append(test)
            else:
                baseline.seconds[test], baseline.reached[test] = seconds, frozenset(reached)


def alone(test: Test, binary: Binary, cache: Path) -> tuple[float | None, list[int]]:
    """How long the test takes and which functions it reaches. `None` if it fails twice."""
    for _ in range(2):
        trace = cache.with_name(f"reached-{abs(hash((test.suite.name, test.target, test.name)))}")
        start = time.monotonic()
        run = play([test], binary, {"MUTANTS_REACHED": str(trace)}, 1, BASELINE_PATIENCE)
        seconds = time.monotonic() - start
        reached = sorted({int(line) for line in trace.read_text().split()}) if trace.is_file() else []
        trace.unlink(missing_ok=True)
        if run.ending is Ending.PASSED:
            return seconds, reached
    return None, []


def batches(tests: Iterable[Test], baseline: Baseline, own: str) -> list[list[Test]]:
    """The tests in the order of the suites, those of the crate `own` first, and slow ones behind quick ones."""
    groups: dict[tuple[object, ...], list[Test]] = {}
    order = [suite.name for suite in suites()]
    for test in tests:
        is_slow = baseline.seconds[test] > SLOW
        place = (order.index(test.suite.name), test.target != own, is_slow, test.target)
        groups.setdefault(place, []).append(test)
    return [groups[place] for place in sorted(groups)]
