"""A large file by `send` and `recv`, beside `age | curl | age`."""

import argparse
import os
from pathlib import Path

from harness import GIB, MIB, Tally, check, write_random
from packages import Packages
from transfers.shared import compare, new_identity, scratch_folder

AGE_CURL = (
    'age -r "$5" "$2" | curl -fsS -T - "$3/stream/$id" & curl -fsS "$3/stream/$id" | age -d -i "$6" -o "$4"; wait $!'
)


def run(options: argparse.Namespace, tally: Tally) -> None:
    with scratch_folder() as folder, tally.trial("a large file"):
        source = folder / "source"
        write_random(source, 64 * MIB if options.quick else 2 * GIB)
        packages = Packages(Path(options.packages))
        packages.provide(["age"])
        os.environ["PATH"] = packages.path()
        identity, recipient = new_identity("age-keygen", folder)
        ratio = compare(options, tally, AGE_CURL, folder, source, recipient, identity)
        check(ratio >= 0.7 or not options.strict, f"{ratio:.2f}")
