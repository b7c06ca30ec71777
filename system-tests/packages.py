#!/usr/bin/env python3
"""Programs from Debian packages that are unpacked and not installed (Debian and its derivatives).

Debian starts a service where it installs a proxy or Prometheus. This script downloads the packages whose programs are missing,
with the dependencies that the machine lacks, and unpacks them below a directory. It needs no root, and removing the
directory removes everything.

    system-tests/packages.py --directory target/packages nginx haproxy

`DIRECTORY/bin` then has a launcher for each unpacked program. Put it last in PATH, so that installed programs come first.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness import ROOT, Violation, check

# The programs of packages that have another name.
PROGRAMS = {"varnish": "varnishd"}
DIRECTORY = ROOT / "target/packages"
PROGRAM_FOLDERS = ("usr/sbin", "usr/bin")
LIBRARIES = ("usr/lib/**/lib*.so.*", "lib/**/lib*.so.*")


def program_of(package: str) -> str:
    return PROGRAMS.get(package, package)


class Packages:
    """The packages below one directory. A second `provide` of the same packages does nothing."""

    def __init__(self, directory: Path) -> None:
        self.root = directory.resolve()
        self.launchers = self.root / "bin"

    def path(self) -> str:
        """The value of PATH for installed and unpacked programs. For users other than root, Debian leaves out /usr/sbin."""
        return ":".join((os.environ.get("PATH", os.defpath), "/usr/sbin", str(self.launchers)))

    def program(self, name: str) -> str | None:
        return shutil.which(name, path=self.path())

    def file(self, path: str) -> str:
        """A file of a package, as installed or as unpacked. `path` has no leading slash."""
        installed = Path("/", path)
        return str(installed if installed.exists() else self.root / path)

    def find(self, pattern: str) -> Path | None:
        """The first installed or unpacked file that matches the pattern."""
        return next((file for root in (Path("/"), self.root) for file in root.glob(pattern)), None)

    def provide(self, packages: Iterable[str]) -> None:
        """Makes the programs of these packages available."""
        missing = sorted({name for name in packages if not self.program(program_of(name))})
        if missing:
            self.unpack(missing)

    def unpack(self, packages: Iterable[str]) -> None:
        """Downloads and unpacks packages, with the dependencies that are not installed."""
        names = list(packages)
        check(shutil.which("apt-get") is not None, f"please install {' '.join(names)}")
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            for archive in download(names, Path(scratch)):
                subprocess.run(("dpkg-deb", "-x", archive, self.root), check=True)
        self._write_launchers()

    def _write_launchers(self) -> None:
        """A launcher sets the library path for its program only: an installed program is not to load unpacked libraries."""
        found = (file for pattern in LIBRARIES for file in self.root.glob(pattern))
        libraries = shlex.quote(":".join(sorted({str(file.parent) for file in found})))
        self.launchers.mkdir(exist_ok=True)
        for program in (file for folder in PROGRAM_FOLDERS for file in (self.root / folder).glob("*")):
            launcher = self.launchers / program.name
            launcher.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {shlex.quote(str(program))} "$@"\n')
            launcher.chmod(0o755)


def download(packages: list[str], scratch: Path) -> list[Path]:
    """Downloads the archives by apt-get, with a cache and, where the machine's package lists do not suffice, lists of its own."""
    archives, lists = scratch / "archives", scratch / "lists"
    for directory in (archives, lists):
        (directory / "partial").mkdir(parents=True)
    # apt-get locks to protect an installation, and nothing is installed here.
    here = ("-qq", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache={scratch}", "-o", f"Dir::Cache::archives={archives}")
    own_lists = (*here, "-o", f"Dir::State::lists={lists}")
    install = ("install", "--download-only", "--yes", "--no-install-recommends", *packages)
    complaint = run_apt(*here, *install)
    if complaint:
        # The machine's lists are missing or old, and only root may update them.
        complaint = run_apt(*own_lists, "update") or run_apt(*own_lists, *install)
    check(not complaint, f"{' '.join(packages)}: {complaint}")
    return sorted(archives.glob("*.deb"))


def run_apt(*arguments: str) -> str:
    """Runs apt-get and returns the end of its complaint, which is empty if it succeeded."""
    done = subprocess.run(("apt-get", *arguments), capture_output=True, check=False)
    return "" if done.returncode == 0 else f"apt-get: exit {done.returncode}: {done.stderr.decode()[-500:]}"


def install_npm(directory: Path, packages: Sequence[str]) -> None:
    """Installs packages of npm below the directory. A second call does nothing."""
    wanted, stamp = "\n".join(packages), directory / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    directory.mkdir(parents=True, exist_ok=True)
    npm = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory), *packages)
    done = subprocess.run(npm, capture_output=True, check=False)
    check(done.returncode == 0, f"npm: exit {done.returncode}: {done.stderr.decode()[-500:]}")
    stamp.write_text(wanted)


def add_packages_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument of tests that use such packages."""
    help = "where packages are unpacked that would start services where they are installed"
    parser.add_argument("--packages", type=Path, default=DIRECTORY, metavar="DIRECTORY", help=help)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where packages are unpacked")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    options = parser.parse_args()
    try:
        Packages(options.directory).provide(options.packages)
    except Violation as complaint:
        print(complaint, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
