"""Mutants of Rust functions as one program: each function contains its mutated bodies, and the variable MUTANT chooses one at run time.

Owns the copies of the workspace that are mutated. A function with mutants becomes

    fn length(self) -> Option<u64> {
        match crate::mutation::chosen(7, 12, 14) {
            0 => { ... }    // as it was
            12 => { None }
            ...
        }
    }

A constant becomes such a function, and its name a call. Mutants that do not compile are left out by the positions of the compiler's
errors, until the rest compiles. They are built alone, as are constants of other crates and lengths of arrays: some compile without the
original beside them, such as closures of another type.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from harness import ROOT

# Appended to lib.rs. A process reads the variables once. It writes the number of each function that it reaches to a file, if asked.
CHOICE = """
#[doc(hidden)]
pub mod mutation {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static CHOSEN: OnceLock<u32> = OnceLock::new();
    static REACHED: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
    static SEEN: [AtomicBool; FUNCTIONS] = [const { AtomicBool::new(false) }; FUNCTIONS];

    /// The mutant of the function that is chosen, if it is between `first` and `last`, otherwise 0.
    pub fn chosen(function: usize, first: u32, last: u32) -> u32 {
        if !SEEN[function].load(Ordering::Relaxed) && !SEEN[function].swap(true, Ordering::Relaxed) {
            if let Some(path) = REACHED.get_or_init(|| std::env::var_os("MUTANTS_REACHED")) {
                // Some tests take all descriptors.
                if let Ok(mut file) = std::fs::File::options().append(true).create(true).open(path) {
                    file.write_all(format!("{function}\\n").as_bytes()).unwrap();
                }
            }
        }
        let chosen = *CHOSEN.get_or_init(|| std::env::var("MUTANT").map_or(0, |number| number.parse().unwrap()));
        if (first..=last).contains(&chosen) { chosen } else { 0 }
    }
}
"""
# What must not be taken for a brace or a keyword: comments, strings, characters; then lifetimes and words.
TOKEN = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(\#*)".*?"\1 | b?c?"(?:\\.|[^"\\])*" | b?'(?:\\[^']+|\\'|[^'\\])' | '\w+ | \w+ | .""",
    re.DOTALL | re.VERBOSE,
)

# A constant that only its crate can use.
CONSTANT = re.compile(r"(?<!pub )\bconst (?P<name>[A-Z0-9_]+): (?P<kind>[^=;]+) = (?P<value>[^;]+);")


@dataclass(frozen=True)
class Mutant:
    """One mutant as cargo-mutants describes it. Positions are offsets into the text of its file."""

    number: int
    name: str
    file: str
    package: str
    start: int
    end: int
    replacement: str

    def applied(self, text: str, start: int = 0, end: int | None = None) -> str:
        """The text of the file between two positions around the mutation, with the mutation."""
        return text[start : self.start] + self.replacement + text[self.end : end]


@dataclass
class Function:
    """A function with mutants, or a constant. `start` and `end` are behind and at the braces of its body, or around the constant's value."""

    number: int
    start: int
    end: int
    mutants: list[Mutant] = field(default_factory=list)
    constant: "re.Match[str] | None" = None

    def opening(self, text: str, start: int) -> str:
        """What is between `start` and the body."""
        first, last = self.mutants[0].number, self.mutants[-1].number
        choice = f"match crate::mutation::chosen({self.number}, {first}, {last}) {{ 0 => {{\n"
        if self.constant:
            name, kind = self.constant["name"], self.constant["kind"]
            return f"{text[start : self.constant.start()]}fn {name}() -> {kind} {{ {choice}"
        return f"{text[start : self.start]}\n{choice}"

    def closing(self) -> str:
        return "_ => unreachable!(),\n}\n" + "}" * (self.constant is not None)


@dataclass
class File:
    """A file with mutants."""

    path: str
    text: str
    functions: list[Function] = field(default_factory=list)
    # Mutants that are in no function and in no constant that may become one.
    others: list[Mutant] = field(default_factory=list)

    def mutants(self) -> list[Mutant]:
        """All mutants of the file, by number."""
        inside = [mutant for function in self.functions for mutant in function.mutants]
        return sorted([*inside, *self.others], key=lambda mutant: mutant.number)

    def constants(self) -> set[str]:
        return {function.constant["name"] for function in self.functions if function.constant}

    def with_mutants(self, left_out: set[Mutant]) -> tuple[str, list[Mutant | None]]:
        """The text with all mutants but those left out, and the mutant of each line."""
        pieces = list(self.pieces(0, len(self.text), left_out))
        lines = [mutant for text, mutant in pieces for _ in range(text.count("\n"))]
        return "".join(text for text, _ in pieces), lines

    def pieces(self, start: int, end: int, left_out: set[Mutant]) -> Iterator[tuple[str, Mutant | None]]:
        for function in sorted(self.functions, key=lambda function: function.start):
            if not start < function.start < end:
                continue
            yield function.opening(self.text, start), None
            yield from self.pieces(function.start, function.end, left_out)
            yield "\n}\n", None
            for mutant in function.mutants:
                if mutant not in left_out:
                    body = mutant.applied(self.text, function.start, function.end)
                    yield f"{mutant.number} => {{\n{body}\n}}\n", mutant
            yield function.closing(), None
            # Behind a constant's value is a semicolon.
            start = function.end + (function.constant is not None)
        yield self.text[start:end], None


def listed() -> list[File]:
    """The mutants of `.cargo/mutants.toml`, file by file in the order of the crates, numbered from 1."""
    files: dict[str, File] = {}
    functions: dict[tuple[str, int], Function] = {}
    # The mutants of a function must have consecutive numbers.
    for number, described in enumerate(sorted(described_mutants(), key=order), 1):
        path = described["file"]
        file = files.setdefault(path, File(path, (ROOT / path).read_text()))
        start, end = offsets(file.text, described["span"])
        name, package = described["name"], described["package"]
        mutant = Mutant(number, name, path, package, start, end, described["replacement"])
        found = function_around(file.text, start, described["function"])
        if found is None:
            file.others.append(mutant)
            continue
        if (path, found[0]) not in functions:
            functions[path, found[0]] = Function(len(functions), *found)
            file.functions.append(functions[path, found[0]])
        functions[path, found[0]].mutants.append(mutant)
    return list(files.values())


def names_since(commit: str) -> set[str]:
    """The names of the mutants in lines that have changed since this commit."""
    with tempfile.NamedTemporaryFile() as difference:
        subprocess.run(["git", "diff", commit, "--", "crates"], cwd=ROOT, check=True, stdout=difference)
        return {described["name"] for described in described_mutants(f"--in-diff={difference.name}")}


def described_mutants(*options: str) -> list[dict[str, Any]]:
    """The mutants as cargo-mutants describes them."""
    command = ["cargo", "mutants", "--list", "--json", *options]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return cast("list[dict[str, Any]]", json.loads(output))


def function_around(
    text: str, start: int, described: dict[str, Any] | None
) -> tuple[int, int, list[Mutant], "re.Match[str] | None"] | None:
    """The function around a mutant, or the constant if other crates do not know it and it is no length of an array."""
    if described:
        begin, end = offsets(text, described["span"])
        return body_start(text, begin), end - 1, [], None
    for constant in CONSTANT.finditer(text):
        is_length = re.search(rf"; {constant['name']}\]", text)
        if constant.start("value") <= start < constant.end("value") and not is_length:
            return *constant.span("value"), [], constant
    return None


def order(described: dict[str, Any]) -> tuple[Any, ...]:
    """Sorts mutants by file, then by function, then by position."""
    function = described["function"]
    place = (function or described)["span"]["start"]
    start = described["span"]["start"]
    return described["file"], place["line"], place["column"], start["line"], start["column"]


def offsets(text: str, span: dict[str, Any]) -> tuple[int, int]:
    """A span of lines and columns, both from 1, as positions in the text."""
    lines = text.split("\n")
    places = (span["start"], span["end"])
    start, end = (sum(len(line) + 1 for line in lines[: at["line"] - 1]) + at["column"] - 1 for at in places)
    return start, end


def body_start(text: str, function: int) -> int:
    """The position behind the brace that opens the body of the function."""
    in_head, depth = False, 0
    for token in TOKEN.finditer(text, function):
        word = token.group()
        in_head |= word == "fn"
        depth += (word in "([") - (word in ")]")
        if in_head and depth == 0 and word == "{":
            return token.end()
    raise ValueError(f"no body behind {text[function : function + 80]!r}")


@dataclass
class Tree:
    """A copy of the workspace. Each has a build directory of its own: cargo gives the same name to the same crate of two copies."""

    directory: Path
    build: Path
    # Paths and texts that differ from those of the workspace.
    changed: dict[str, str] = field(default_factory=dict)

    def update(self, changed: dict[str, str]) -> None:
        """Makes the tree equal to the workspace but for `changed`. Writes only what differs, so that cargo builds no more than that."""
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        )
        names = {name for name in tracked.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
        for name in names:
            wanted = changed[name].encode() if name in changed else (ROOT / name).read_bytes()
            copy = self.directory / name
            if not copy.is_file() or copy.read_bytes() != wanted:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(wanted)
                copy.chmod((ROOT / name).stat().st_mode)
        for copy in (path for path in self.directory.rglob("*") if path.is_file() or path.is_symlink()):
            if str(copy.relative_to(self.directory)) not in names:
                copy.unlink()

    def cargo(self, *arguments: str, flags: str = "") -> tuple[bool, list[dict[str, Any]]]:
        """Runs cargo. Returns whether it succeeds, and its messages."""
        command = ["cargo", *arguments, "--profile=mutants", "--message-format=json", "--quiet"]
        # With other flags, cargo would build into the same directory, but each time anew.
        target = self.build / ("flags" + re.sub(r"\W+", "-", flags) if flags else "plain")
        environment = os.environ | {"CARGO_TARGET_DIR": str(target), "RUSTFLAGS": f"--cap-lints=allow {flags}".strip()}
        # Compiler messages are on stdout; stderr repeats in short what failed.
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
        if done.returncode and not errors(messages):
            sys.exit(done.stderr.decode())
        return done.returncode == 0, messages


def errors(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The compiler's errors with a position."""
    found = [message["message"] for message in messages if message["reason"] == "compiler-message"]
    return [message for message in found if message["level"] == "error" and message["spans"]]


class Schemata:
    """The tree with all mutants that compile together."""

    def __init__(self, files: list[File], tree: Tree, cache: Path) -> None:
        self.files = files
        self.tree = tree
        # The names of those that did not compile last time, where to start from.
        self.cache = cache
        names = set(cache.read_text().splitlines()) if cache.is_file() else set()
        self.left_out = {mutant for file in files for mutant in file.mutants() if mutant.name in names}
        self.lines: dict[str, list[Mutant | None]] = {}

    def write(self) -> None:
        count = sum(len(file.functions) for file in self.files)
        changed: dict[str, str] = {}
        for file in self.files:
            changed[file.path], self.lines[file.path] = file.with_mutants(self.left_out)
        for crate in {file.path.partition("/src/")[0] for file in self.files}:
            self.call_constants(crate, changed)
            root = f"{crate}/src/lib.rs"
            changed[root] = changed.get(root, (ROOT / root).read_text()) + CHOICE.replace("FUNCTIONS", str(count))
        self.tree.update(changed)

    def call_constants(self, crate: str, changed: dict[str, str]) -> None:
        """Replaces the names of constants by calls, in all files of the crate that have no constant of that name themselves."""
        by_path = {file.path: file.constants() for file in self.files if file.path.startswith(f"{crate}/src/")}
        for source in (ROOT / crate / "src").rglob("*.rs"):
            path = str(source.relative_to(ROOT))
            text = changed.get(path) or source.read_text()
            defined = {constant["name"] for constant in CONSTANT.finditer(text)}
            names = by_path.get(path, set()) | (set().union(*by_path.values()) - defined)
            if any(name in text for name in names):
                changed[path] = with_calls(text, names)

    def compile(self) -> None:
        """Leaves out mutants until the rest compiles."""
        packages = sorted({mutant.package for file in self.files for mutant in file.mutants()})
        while True:
            self.write()
            done, messages = self.tree.cargo("check", "--lib", "--keep-going", *(f"-p={name}" for name in packages))
            if done:
                self.cache.write_text("".join(f"{mutant.name}\n" for mutant in self.left_out))
                return
            found = set().union(*(self.mutants_at(error) for error in errors(messages)))
            if not found:
                sys.exit("\n".join(error["rendered"] for error in errors(messages)))
            self.left_out |= found
            print(f"{len(self.left_out)} mutants do not compile beside the others", flush=True)

    def mutants_at(self, error: dict[str, Any]) -> set[Mutant]:
        """The mutants whose lines the error names: first where it is, otherwise where it comes from."""
        for spans in ([span for span in error["spans"] if span["is_primary"]], error["spans"]):
            lines = [(self.lines.get(span["file_name"], []), span["line_start"] - 1) for span in spans]
            found = {mutants[line] for mutants, line in lines if line < len(mutants)} - {None}
            if found:
                return {mutant for mutant in found if mutant}
        return set()


def with_calls(text: str, names: set[str]) -> str:
    """The text with a call behind each of the names, but in imports."""
    parts, in_import = [], False
    for token in TOKEN.finditer(text):
        word = token.group()
        in_import = word == "use" or (in_import and word != ";")
        is_called = word in names and not in_import and text[token.end()] != "("
        parts.append(word + "()" * is_called)
    return "".join(parts)
