#!/usr/bin/env python3
"""Draws a transfer as two terminals in an animated SVG, for the README.

It runs the real server and the real curl, each command in a terminal of its own. Examples replace the id and the address, and times are
rounded to a quarter of a second, so that two recordings of the same behaviour are the same file.

    system-tests/recording.py --write docs/transfer.svg  # records, and draws
    system-tests/recording.py --check docs/transfer.svg  # fails where the file differs from what was recorded

Needs bash, curl, and nothing but Python 3.11 and a release build.
"""

import argparse
import os
import pty
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from harness import serving

EXAMPLE_RELAY = "http://relay.example:9999"
EXAMPLE_ID = "2f9c0c5e-8e0b-8d53-9b4e-0a6f0f3c7f11"

CREATE = "id=$(curl -s -X POST $relay/stream | cut -d'\"' -f4)"
SHOW = "echo $id"
RECEIVE = "curl -f $relay/stream/$id"
SEND = 'for n in 1 2 3; do echo "part $n"; sleep 1; done |\n  curl -f -T - $relay/stream/$id && echo delivered'

READING = 1.5  # seconds between two commands, for the person who watches
HOLDING = 6.0  # seconds for which the last picture stays
PATIENCE = 30.0  # seconds for a command

COLUMNS = 54
CHARACTER, LINE = 7.23, 19.0  # pixels
PADDING, BAR, GAP = 14.0, 34.0, 16.0


@dataclass
class Terminal:
    """What one terminal shows: each line with the time in seconds at which it appears."""

    title: str
    lines: list[tuple[float, str]] = field(default_factory=list)

    def prompt(self, at: float, command: str) -> None:
        first, *rest = command.split("\n")
        self.lines.append((at, f"$ {first}"))
        self.lines += [(at, line) for line in rest]


class Running:
    """A command in a terminal. `output` has each line with the seconds since the start."""

    def __init__(self, command: str, variables: dict[str, str]) -> None:
        self.output: list[tuple[float, str]] = []
        self.began = time.monotonic()
        near, far = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", **variables}
        self.process = subprocess.Popen(("bash", "-c", command), stdout=far, stderr=far, env=environment)
        os.close(far)
        self.reader = threading.Thread(target=self.read, args=(near,))
        self.reader.start()

    def read(self, terminal: int) -> None:
        with os.fdopen(terminal, "rb") as file:
            try:
                for line in file:
                    self.output.append((time.monotonic() - self.began, line.decode().rstrip()))
            except OSError:  # EIO: the command has closed its end of the terminal.
                pass

    def finish(self) -> float:
        """Waits for the end, which must be a success, and returns the seconds that the command took."""
        code = self.process.wait(PATIENCE)
        took = time.monotonic() - self.began
        self.reader.join(PATIENCE)
        if code != 0:
            raise SystemExit(f"a command ended with {code}: {self.output}")
        return took


def record(program: list[str]) -> tuple[Terminal, Terminal, float]:
    sender, receiver = Terminal("sender, on one machine"), Terminal("receiver, on another")
    with serving(program) as server:
        relay = {"relay": f"http://127.0.0.1:{server.port}"}
        made = Running(f"{CREATE}\n{SHOW}", relay)
        made.finish()
        ((_, id),) = made.output
        both = {**relay, "id": id}

        sender.prompt(0.0, f"relay={EXAMPLE_RELAY}")
        sender.prompt(READING, CREATE)
        sender.prompt(2 * READING, SHOW)
        sender.lines.append((2 * READING, id))
        receiver.prompt(3 * READING, f"relay={EXAMPLE_RELAY}")
        receiver.prompt(3 * READING, f"id={EXAMPLE_ID}")

        receiving = Running(RECEIVE, both)
        server.wait_for_state(id, "DST_CONNECTED")
        receiving_began = 4 * READING
        sending = Running(SEND, both)
        sending_began = 6 * READING
        sent, received = sending.finish(), receiving.finish()

        receiver.prompt(receiving_began, RECEIVE)
        sender.prompt(sending_began, SEND)
        # The picture counts both from the start of the sender.
        waited = sending.began - receiving.began
        receiver.lines += [(sending_began + at - waited, line) for at, line in receiving.output]
        sender.lines += [(sending_began + at, line) for at, line in sending.output]
        sender.prompt(sending_began + sent, "")
        receiver.prompt(sending_began + received - waited, "")
    for terminal in (sender, receiver):
        terminal.lines = [(round(at * 4) / 4, line.replace(id, EXAMPLE_ID)) for at, line in terminal.lines]
    return sender, receiver, max(at for terminal in (sender, receiver) for at, _ in terminal.lines) + HOLDING


STYLE = """\
  text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328; white-space: pre }
  .title { font-family: system-ui, sans-serif; fill: #59636e }
  .command { font-weight: 600 }
  .ground { fill: #f6f8fa; stroke: #d1d9e0 }
  .dot { fill: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .title { fill: #9198a1 }
    .ground { fill: #151b23; stroke: #3d444d }
    .dot { fill: #3d444d }
  }
  @media (prefers-reduced-motion: reduce) { text { animation: none !important } }
"""


def draw(terminals: tuple[Terminal, ...], duration: float) -> str:
    """The picture. A viewer without animation shows all lines."""
    width = COLUMNS * CHARACTER + 2 * PADDING
    height = BAR + max(len(terminal.lines) for terminal in terminals) * LINE + PADDING
    times = sorted({at for terminal in terminals for at, _ in terminal.lines if at > 0})
    frames = "".join(
        f"  @keyframes t{number} {{ 0%, {at / duration:.3%} {{ opacity: 0 }} {at / duration + 1e-5:.3%}, 100% {{ opacity: 1 }} }}\n"
        f"  .t{number} {{ animation: t{number} {duration:g}s infinite }}\n"
        for number, at in enumerate(times)
    )
    whole = len(terminals) * width + (len(terminals) - 1) * GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole:.0f} {height:.0f}" width="{whole:.0f}" height="{height:.0f}" role="img">',
        "<title>A transfer: curl sends in one terminal, curl receives in another, and each line arrives as it is written</title>",
        f"<style>\n{STYLE}{frames}</style>",
    ]
    for number, terminal in enumerate(terminals):
        left = number * (width + GAP)
        parts.append(f'<rect class="ground" x="{left + 0.5:.1f}" y="0.5" width="{width - 1:.1f}" height="{height - 1:.1f}" rx="8"/>')
        parts += [f'<circle class="dot" cx="{left + 18 + 16 * dot:.1f}" cy="18" r="5"/>' for dot in range(3)]
        parts.append(f'<text class="title" x="{left + 72:.1f}" y="22">{escape(terminal.title)}</text>')
        is_command = False
        for row, (at, line) in enumerate(terminal.lines):
            if len(line) > COLUMNS:
                raise SystemExit(f"this line is too long: {line}")
            is_command = line.startswith("$ ") or is_command and line.startswith("  ")
            kinds = ["command"] if is_command else []
            kinds += [f"t{times.index(at)}"] if at > 0 else []
            attribute = f' class="{" ".join(kinds)}"' if kinds else ""
            y = BAR + (row + 0.8) * LINE
            parts.append(f'<text{attribute} x="{left + PADDING:.1f}" y="{y:.1f}" xml:space="preserve">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    built = Path(__file__).resolve().parent.parent / "target/release/rendezvous"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=shlex.quote(str(built)), metavar="PROGRAM", help="flags may follow it")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--check", type=Path, metavar="FILE")
    options = parser.parse_args()
    sender, receiver, duration = record(shlex.split(options.server))
    drawn = draw((sender, receiver), duration)
    if options.write:
        options.write.write_text(drawn)
    if options.check and options.check.read_text() != drawn:
        print(f"{options.check} differs from what was recorded: --write it anew, and look at it", file=sys.stderr)
        return 1
    for terminal in (sender, receiver):
        print(f"-- {terminal.title}", *(f"{at:6.2f}  {line}" for at, line in terminal.lines), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
