"""Thousands of small files by `send` and `recv`, beside `tar | curl | tar`."""

import argparse
import random

from harness import Tally, check
from transfers.shared import compare, scratch_folder, small_files

TAR_CURL = (
    'tar -C "$2" -c . | curl -fsS -T - "$3/stream/$id" & '
    'mkdir "$4"; curl -fsS "$3/stream/$id" | tar -C "$4" -x; wait $!'
)


def run(options: argparse.Namespace, tally: Tally) -> None:
    with scratch_folder() as folder, tally.trial("small files"):
        tree = folder / "tree"
        small_files(tree, 500 if options.quick else 20_000, random.Random(options.seed))
        ratio = compare(options, tally, TAR_CURL, folder, tree)
        check(ratio >= 0.5 or not options.strict, f"{ratio:.2f}")
