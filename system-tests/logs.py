#!/usr/bin/env python3
"""The server's log.

  secrets   10000 streams, half of them with a token for each side, logged as text and as JSON at `debug`: no log has a whole
            id or a token, and each stream has its lines

`--streams` is the number of streams. Needs nothing but Python 3.11 and a release build.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from harness import Server, Tally, check, new_parser, run_all, serving, wait_until

CLIENTS = 8
SHOWN = 8  # characters of an id that are logged
LINES = 7  # of a stream: three requests, and created, waits, streaming, finished


def secrets(options: argparse.Namespace, tally: Tally) -> None:
    for style in ("text", "json"):
        with tempfile.TemporaryFile() as log:
            flags = ("--log", "debug", "--log-format", style, "--ttl", "10m")
            with serving(options.server, *flags, stderr=log) as server:
                used = pass_streams(server, options.streams)
                # The lines are written a moment later.
                lines = wait_until(lambda: lines_of(log), lambda lines: len(lines) >= LINES * len(used), "the lines")
        with tally.trial(f"{style}: no whole id and no token"):
            # The rest of an id, without the logged part, must not be there either.
            hidden = [secret for id, tokens in used for secret in (id[SHOWN:], *tokens)]
            text = "\n".join(lines)
            found = [secret for secret in hidden if secret in text]
            check(not found, f"{len(found)} of {len(hidden)} are in the log, such as {found[:1]}")
        with tally.trial(f"{style}: every stream has its lines"):
            seen = Counter(shown_id(line, style) for line in lines)
            # Two ids that begin alike share their lines.
            expected = Counter(id[:SHOWN] for id, _ in used for _ in range(LINES))
            wrong = {id: seen[id] for id in expected if seen[id] != expected[id]}
            check(not wrong, f"{len(wrong)} streams do not have {LINES} lines: {list(wrong.items())[:3]}")
        tally.notes.append(f"{style}: {len(lines)} lines of {len(used)} streams")


def lines_of(log: IO[bytes]) -> list[str]:
    log.seek(0)
    return log.read().decode().splitlines()


def pass_streams(server: Server, count: int) -> list[tuple[str, list[str]]]:
    """Passes bodies through streams. Returns the ids and tokens of the streams."""
    with ThreadPoolExecutor(CLIENTS) as makers, ThreadPoolExecutor(CLIENTS) as receivers:
        return list(makers.map(lambda number: pass_stream(server, number, receivers), range(count)))


def pass_stream(server: Server, number: int, receivers: ThreadPoolExecutor) -> tuple[str, list[str]]:
    """Sends tokens in the query, where they are easiest to log by mistake."""
    body = b'{"access": "split"}' if number % 2 else b""
    status, made = server.request("POST", "/stream", body)
    check(status == 201, f"POST /stream: {status}")
    made = json.loads(made)
    path = f"/stream/{made['stream']}"
    tokens = [made[name] for name in ("upload_token", "download_token") if name in made]
    queries = [f"?token={token}" for token in tokens] or ["", ""]
    download = receivers.submit(server.request, "GET", path + queries[1])
    upload, _ = server.request("PUT", path + queries[0], b"hello")
    check((upload, *download.result()) == (200, 200, b"hello"), f"{upload}, {download.result()}")
    return made["stream"], tokens


def shown_id(line: str, style: str) -> str:
    """The logged part of the id: in the span of a stream, or as a field of a request."""
    if style == "json":
        entry = json.loads(line)
        return str(entry.get("stream") or entry.get("span", {}).get("id", ""))[:SHOWN]
    return (line.partition("stream{id=")[2] or line.partition(" stream=")[2])[:SHOWN]


def main() -> int:
    tests = {"secrets": secrets}
    parser = new_parser(__doc__, tests)
    parser.add_argument("--streams", type=int, default=10_000, metavar="N", help="number of streams")
    return run_all(parser, tests)


if __name__ == "__main__":
    sys.exit(main())
