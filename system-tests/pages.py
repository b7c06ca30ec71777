"""Pages of docs/ whose tables are made from what a system test has seen: `--write PAGE` and `--check PAGE`."""

import argparse
import re
from collections.abc import Sequence
from difflib import unified_diff
from pathlib import Path

from harness import Tally, check
from packages import add_packages_argument

MARK = re.compile(r"(<!-- (made|snippet): ([^>]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(*rows: Sequence[str]) -> str:
    """A Markdown table, whose first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join((lines[0], f"|{'---|' * len(rows[0])}", *lines[1:])) + "\n"


class MadePage:
    """A page of prose around blocks that the test makes. Each block stands between `<!-- made: NAME -->` and `<!-- end -->`."""

    # Blocks that differ from machine to machine. `--check` does not compare them.
    of_this_machine: Sequence[str] = ("versions",)

    def block(self, kind: str, name: str, old: str) -> str:
        """The text of a block, given its text on the page. `kind` is `made` or `snippet`."""
        raise NotImplementedError

    def remade(self, text: str, leave_out: Sequence[str] = ()) -> str:
        """The page with all blocks made anew, except those that `leave_out` names."""

        def replacement(match: re.Match[str]) -> str:
            mark, kind, name, old, end = match.groups()
            return match[0] if name in leave_out else mark + self.block(kind, name, old) + end

        return MARK.sub(replacement, text)

    def use(self, options: argparse.Namespace, tally: Tally) -> None:
        """Does what `--write` and `--check` ask for."""
        if options.write:
            options.write.write_text(self.remade(options.write.read_text()))
        if options.check:
            with tally.trial(str(options.check)):
                text = options.check.read_text()
                fresh = self.remade(text, leave_out=self.of_this_machine)
                changed = list(unified_diff(text.splitlines(), fresh.splitlines(), n=0, lineterm=""))
                check(not changed, "differs from what was seen (`--write` makes it anew):\n" + "\n".join(changed))


def add_page_arguments(parser: argparse.ArgumentParser, trial: str) -> None:
    """Adds the arguments of a test that makes a page."""
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables of a page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="compare the tables with those of a page")
    add_packages_argument(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help=f"print a line for each {trial}")
