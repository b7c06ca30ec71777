"""A file of 200 MiB arrives through nginx with its defaults."""

import argparse
import subprocess
import time
from pathlib import Path

from harness import CURL, LOOPBACK, MIB, Tally, check, child, free_port, serving, wait_until, write_random
from packages import Packages
from transfers.shared import scratch_folder, sha256_of, transfer

NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{relay}; }} }}
}}
"""


def run(options: argparse.Namespace, tally: Tally) -> None:
    packages = Packages(Path(options.packages))
    packages.provide(["nginx"])
    program = packages.program("nginx")
    check(program is not None, "there is no nginx")
    with scratch_folder() as folder, serving(options.server) as server:
        port = free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, relay=server.port))
        proxied = f"http://{LOOPBACK}:{port}"
        ping = (*CURL, "-o", "/dev/null", f"{proxied}/ping")
        with child(str(program), "-e", folder / "error.log", "-c", folder / "nginx.conf"), tally.trial("200 MiB"):
            wait_until(lambda: subprocess.call(ping), lambda code: code == 0, "nginx")
            file, target = folder / "file", folder / "got"
            digest = write_random(file, 20 * MIB if options.quick else 200 * MIB)
            begun = time.monotonic()
            transfer(options.server[0], proxied, folder, file, target=target)
            check(sha256_of(target) == digest, "other bytes")
            tally.notes.append(f"{time.monotonic() - begun:.0f} s")
