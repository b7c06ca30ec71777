#!/usr/bin/env python3
"""`rendezvous send` and `recv` (Linux, iproute2, curl, tar; the Python package `cryptography`).

    whole    files, a tree, a pipe and names of all kinds arrive as they are, in little memory
    stored   receivers are killed at random moments: `send -` says stored only if it is
    small    20 000 small files, beside `tar | curl | tar`
    speed    a large file, beside `age | curl`
    nginx    a file of 200 MiB, through nginx with its defaults
    age      a receiver in Python: the `age` of Debian opens a segment of `send` and a control message of `recv`
    faults   the relay is killed, links are cut, clients are stopped for a minute: each transfer goes on by itself and completes

Each is a module of `transfers/`, and `transfers/shared.py` has what they share.

`faults` needs root, or the right to make user namespaces, and prints SKIPPED without either, which --must-run makes a failure.
`small` and `speed` print ratios, and fail below the bounds of --strict only with it. --quick uses smaller files, fewer transfers
and shorter faults.
"""

import sys

from harness import Test, new_parser, run_all
from transfers import age, faults, nginx, small, speed, stored, whole

TESTS: dict[str, Test] = {
    "whole": whole.run,
    "stored": stored.run,
    "small": small.run,
    "speed": speed.run,
    "nginx": nginx.run,
    "age": age.run,
    # The last, because it moves this process into a namespace of its own.
    "faults": faults.run,
}


def main() -> int:
    parser = new_parser(__doc__, TESTS)
    parser.add_argument("--quick", action="store_true", help="smaller files, fewer transfers, shorter faults")
    parser.add_argument("--must-run", action="store_true", help="a test that cannot run fails")
    parser.add_argument("--strict", action="store_true", help="fail below the bounds of small and speed")
    parser.add_argument("--transfers", type=int, default=200, help="transfers of faults")
    parser.add_argument(
        "--packages", default="target/packages", help="where nginx and age are unpacked if they are not installed"
    )
    return run_all(parser, TESTS, "curl", "ip", "tar")


if __name__ == "__main__":
    sys.exit(main())
