"""Files, a pipe, a tree and names of all kinds arrive as they are, in little memory."""

import argparse
import hashlib
import os
import random
import resource
import shutil
import subprocess
from pathlib import Path

from harness import GIB, MIB, Tally, check, child, output_of, serving, write_random
from transfers.shared import is_copy, scratch_folder, sha256_of, small_files, transfer, url_of

KEPT = 64 * MIB  # the memory of a client, without its replay buffer
REPLAY = 64 * MIB
NAMES = (
    "two words",
    'it\'s "quoted"',
    "line\nbreak",
    "tab\there",
    "grüße-日本語-🎉",
    "-starts-with-a-hyphen",
    "back\\slash",
    "percent%20and#hash?",
    "a" * 200,
    "déjà" + "́",
)


def run(options: argparse.Namespace, tally: Tally) -> None:
    with scratch_folder() as folder, serving(options.server) as server:
        relay = url_of(server)
        # The bounds of memory hold for all children so far. Those of the files are tighter, so they come first.
        files(options, tally, relay, folder)
        with tally.trial("a pipe"):
            pipe(options, tally, relay, folder)
        with tally.trial("a tree"):
            tree = folder / "tree"
            small_files(tree, 1000 if options.quick else 20_000, random.Random(options.seed))
            arrives_whole(options, relay, folder, tree)
        with tally.trial("names"):
            arrives_whole(options, relay, folder, tree_of_names(folder))
        each_name(options, tally, relay, folder)


def peak_of_children() -> int:
    """The most memory that any ended child has taken, in bytes. It only grows."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def files(options: argparse.Namespace, tally: Tally, relay: str, folder: Path) -> None:
    for label, size in (("empty", 0), ("one byte", 1), ("4 GiB", 32 * MIB if options.quick else 4 * GIB)):
        with tally.trial(f"a file, {label}"):
            file, target = folder / "file", folder / "got"
            digest = write_random(file, size)
            file.chmod(0o640)
            os.utime(file, (1_500_000_000, 1_500_000_000))
            transfer(options.server[0], relay, folder, file, target=target)
            check(sha256_of(target) == digest, "other bytes")
            status = target.stat()
            check((status.st_mode & 0o777, int(status.st_mtime)) == (0o640, 1_500_000_000), f"{status}")
            check(peak_of_children() <= KEPT, f"a client took {peak_of_children() >> 20} MiB")
            target.unlink()
            file.unlink()
    tally.notes.append(f"files: at most {peak_of_children() >> 20} MiB a client")


def pipe(options: argparse.Namespace, tally: Tally, relay: str, folder: Path) -> None:
    # With an unlimited replay buffer, even the smaller size would exceed the bound.
    size = 96 * MIB if options.quick else 10 * GIB
    target = folder / "zeros"
    with child("sh", "-c", f"head -c {size} /dev/zero", stdout=subprocess.PIPE) as producer:
        transfer(options.server[0], relay, folder, "-", target=target, stdin=output_of(producer))
    zeros = hashlib.sha256()
    for _ in range(size // MIB):
        zeros.update(bytes(MIB))
    check(sha256_of(target) == zeros.hexdigest(), "other bytes")
    target.unlink()
    check(peak_of_children() <= KEPT + REPLAY, f"a client took {peak_of_children() >> 20} MiB")
    tally.notes.append(f"pipe: at most {peak_of_children() >> 20} MiB")


def arrives_whole(options: argparse.Namespace, relay: str, folder: Path, tree: Path) -> None:
    target = folder / f"{tree.name}-got"
    transfer(options.server[0], relay, folder, tree, target=target)
    check(is_copy(tree, target), "another tree")


def tree_of_names(folder: Path) -> Path:
    """A tree with odd names, several modes, a symbolic link and an empty directory."""
    tree = folder / "names"
    tree.mkdir()
    for number, odd in enumerate(NAMES):
        (tree / odd).write_text(odd)
        (tree / odd).chmod((0o600, 0o644, 0o755)[number % 3])
    (tree / "sub").mkdir(mode=0o700)
    (tree / "sub" / "link").symlink_to("../two words")
    (tree / "empty").mkdir()
    os.utime(tree / "empty", (1_400_000_000, 1_400_000_000))
    return tree


def each_name(options: argparse.Namespace, tally: Tally, relay: str, folder: Path) -> None:
    for odd in NAMES:
        with tally.trial(f"the name {odd!r}"):
            file, into = folder / odd, folder / "into"
            file.write_text(odd)
            into.mkdir()
            transfer(options.server[0], relay, folder, "--", f"./{odd}", target=into)
            (got,) = into.iterdir()
            check(got.read_text() == odd, "other bytes")
            shutil.rmtree(into)
            file.unlink()
