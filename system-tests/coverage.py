#!/usr/bin/env python3
"""Which lines and branches of the product's crates the tests reach: a table with a row for each file.

Runs the tests as ./check does (both data paths, over TLS, and the program as a process of its own) with instrumentation. Lines of
tests inside `src` are not counted. Needs cargo-llvm-cov, and llvm-cov and llvm-profdata of the compiler's LLVM: the component
llvm-tools, or LLVM_COV and LLVM_PROFDATA (Debian: `apt-get install llvm-22`). Branches need a nightly compiler; without one the
table has lines only.
"""

import argparse
import collections
import os
import pathlib
import shutil
import subprocess
import sys

from harness import ROOT, not_over_tls

# Of the workspace's crates, those of the product. The others serve its tests.
CRATES = ("codec", "core", "net", "protocol", "rendezvous", "server", "tcp-outq")
SOURCES = [ROOT / "crates" / crate / "src" for crate in CRATES]


def find_llvm(environment):
    """Uses Debian's LLVM 22 unless the environment names another."""
    for variable, program in [("LLVM_COV", "llvm-cov-22"), ("LLVM_PROFDATA", "llvm-profdata-22")]:
        path = shutil.which(program)
        if path:
            environment.setdefault(variable, path)


def has_nightly():
    command = ["cargo", "+nightly", "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def runs():
    """Yields the arguments and the environment variables of each run."""
    skip = [argument for name in not_over_tls() for argument in ("--skip", name)]
    yield ["--workspace"], {}
    yield ["--test", "wire", "--test", "program"], {"RENDEZVOUS_DATA_PATH": "copy"}
    yield ["--test", "wire", "--", *skip], {"RENDEZVOUS_TRANSPORT": "tls"}


def measure(cargo, branches, environment):
    """Runs the tests and returns the coverage in lcov's format. Goes on after a test that fails."""
    flags = ["--branch"] if branches else []
    subprocess.run([*cargo, "llvm-cov", "clean", "--workspace"], cwd=ROOT, env=environment, check=True)
    passed = True
    for arguments, extra in runs():
        command = [*cargo, "llvm-cov", "test", "--no-report", "--no-fail-fast", "--locked", *flags, *arguments]
        print("$", *(f"{name}={value}" for name, value in extra.items()), *command, file=sys.stderr, flush=True)
        passed &= subprocess.run(command, cwd=ROOT, env=environment | extra, stdout=sys.stderr).returncode == 0
    if not passed:
        print("Tests failed: the table shows less than the tests reach.", file=sys.stderr)
    command = [*cargo, "llvm-cov", "report", "--lcov", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def code_lines(path):
    """The number of lines of a file before its tests."""
    for number, line in enumerate(path.read_text().splitlines()):
        if line.startswith("#[cfg(test)]"):
            return number
    return sys.maxsize


def read(lcov):
    """The lines and branches of each file of the product, with how often each was reached."""
    files = {}
    for line in lcov.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            path = pathlib.Path(rest)
            last = code_lines(path)
            lines, branches = collections.Counter(), collections.Counter()
            if any(path.is_relative_to(folder) for folder in SOURCES):
                lines, branches = files.setdefault(str(path.relative_to(ROOT / "crates")), (lines, branches))
        elif kind == "DA":
            number, count = (int(field) for field in rest.split(",")[:2])
            if number <= last:
                lines[number] += count
        elif kind == "BRDA":
            number, block, branch, count = rest.split(",")
            if int(number) <= last:
                branches[(number, block, branch)] += 0 if count == "-" else int(count)
    return files


def share(counts):
    reached = sum(count > 0 for count in counts.values())
    return f"{100 * reached / len(counts):.1f} %" if counts else "–"


def table(files, branches):
    rows = [(name, share(lines), share(branch)) for name, (lines, branch) in sorted(files.items()) if lines]
    everything = [
        {(name, key): count for name, counts in files.items() for key, count in counts[kind].items()} for kind in (0, 1)
    ]
    rows.append(("**all**", share(everything[0]), share(everything[1])))
    print("| file | lines |" + (" branches |" if branches else ""))
    print("|---|---:|" + ("---:|" if branches else ""))
    for name, lines, branch in rows:
        print(f"| {name} | {lines} |" + (f" {branch} |" if branches else ""))


def missed(files):
    """Prints the lines that no test reaches."""
    for name, (lines, _) in sorted(files.items()):
        numbers = [str(number) for number, count in sorted(lines.items()) if count == 0]
        if numbers:
            print(f"{name}: {' '.join(numbers)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true", help="also print the lines that no test reaches")
    arguments = parser.parse_args()
    environment = dict(os.environ)
    find_llvm(environment)
    branches = has_nightly()
    if not branches:
        print("Without a nightly compiler there are no branches.", file=sys.stderr)
    cargo = ["cargo", "+nightly"] if branches else ["cargo"]
    files = read(measure(cargo, branches, environment))
    table(files, branches)
    if arguments.missed:
        missed(files)


if __name__ == "__main__":
    main()
