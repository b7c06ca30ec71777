"""Transfers by Python's APIs, concurrently, one per line: NUMBER ROLE API URL FILE FRAMING, tab-separated.

Prints a line for each: NUMBER, `done` or `failed`, and the message of the API. The CA is in CLIENTS_CA.
"""

import os
import shutil
import ssl
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit

import httpx
import requests

CA = os.environ["CLIENTS_CA"]
TRUST = ssl.create_default_context(cafile=CA)
BLOCK = 64 * 1024
answering = threading.Lock()


def connect(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return HTTPSConnection(parts.hostname, parts.port, context=TRUST)
    return HTTPConnection(parts.hostname, parts.port)


def expect_200(status: int) -> None:
    if status != 200:
        raise RuntimeError(f"status {status}")


def blocks(file: str) -> Iterator[bytes]:
    with open(file, "rb") as body:
        while block := body.read(BLOCK):
            yield block


# --------------------------------------------------------------------------------------------- receiving


def receive_http_client(url: str, file: str, _: str) -> None:
    connection = connect(url)
    connection.request("GET", urlsplit(url).path)
    response = connection.getresponse()
    expect_200(response.status)
    with open(file, "wb") as out:
        out.write(response.read())


def receive_urlopen(url: str, file: str, _: str) -> None:
    # snippet: urlopen, copyfileobj()
    with urllib.request.urlopen(url, context=TRUST) as response, open(file, "wb") as out:
        shutil.copyfileobj(response, out)
    # snippet end


def receive_urlopen_read(url: str, file: str, _: str) -> None:
    # snippet: urlopen, read()
    with urllib.request.urlopen(url, context=TRUST) as response, open(file, "wb") as out:
        out.write(response.read())  # all at once: IncompleteRead at a cut
    # snippet end


def receive_requests(url: str, file: str, _: str) -> None:
    # snippet: requests
    with requests.get(url, stream=True, verify=CA) as response, open(file, "wb") as out:
        response.raise_for_status()
        for block in response.iter_content(64 * 1024):  # raises at a cut
            out.write(block)
    # snippet end


def receive_httpx(url: str, file: str, _: str, http2: bool = False) -> None:
    with (
        httpx.Client(verify=TRUST, http2=http2, http1=not http2, timeout=30) as client,
        client.stream("GET", url) as response,
        open(file, "wb") as out,
    ):
        response.raise_for_status()
        for block in response.iter_bytes():
            out.write(block)


def receive_httpx_2(url: str, file: str, framing: str) -> None:
    receive_httpx(url, file, framing, http2=True)


# ----------------------------------------------------------------------------------------------- sending


def send_http_client(url: str, file: str, framing: str) -> None:
    connection = connect(url)
    with open(file, "rb") as body:
        headers = {"Content-Length": str(os.path.getsize(file))} if framing == "length" else {}
        connection.request("PUT", urlsplit(url).path, body, headers, encode_chunked=framing == "chunked")
        expect_200(connection.getresponse().status)


def send_urlopen(url: str, file: str, framing: str) -> None:
    with open(file, "rb") as body:
        headers = {"Content-Length": str(os.path.getsize(file))} if framing == "length" else {}
        request = urllib.request.Request(url, body, headers, method="PUT")
        expect_200(urllib.request.urlopen(request, context=TRUST).status)


def send_requests(url: str, file: str, framing: str) -> None:
    with open(file, "rb") as body:
        data = body if framing == "length" else blocks(file)
        requests.put(url, data=data, verify=CA).raise_for_status()


def send_httpx(url: str, file: str, framing: str, http2: bool = False) -> None:
    with httpx.Client(verify=TRUST, http2=http2, http1=not http2, timeout=30) as client:
        headers = {"Content-Length": str(os.path.getsize(file))} if framing == "length" else {}
        client.put(url, content=blocks(file), headers=headers).raise_for_status()


def send_httpx_2(url: str, file: str, framing: str) -> None:
    send_httpx(url, file, framing, http2=True)


Transfer = Callable[[str, str, str], None]
APIS: dict[tuple[str, str], Transfer] = {
    ("receive", "http.client"): receive_http_client,
    ("receive", "urlopen, copyfileobj()"): receive_urlopen,
    ("receive", "urlopen, read()"): receive_urlopen_read,
    ("receive", "requests"): receive_requests,
    ("receive", "httpx"): receive_httpx,
    ("receive", "httpx, http2=True"): receive_httpx_2,
    ("send", "http.client"): send_http_client,
    ("send", "urlopen"): send_urlopen,
    ("send", "requests"): send_requests,
    ("send", "httpx"): send_httpx,
    ("send", "httpx, http2=True"): send_httpx_2,
}


def transfer(number: str, role: str, api: str, url: str, file: str, framing: str) -> None:
    try:
        APIS[role, api](url, file, framing)
        answer = f"{number}\tdone\t"
    except Exception as failure:  # any exception is the result
        said = " ".join(str(failure).split())
        answer = f"{number}\tfailed\t{type(failure).__name__}: {said}"
    with answering:
        print(answer, flush=True)


print("ready", flush=True)
for line in sys.stdin:
    threading.Thread(target=transfer, args=line.rstrip("\n").split("\t")).start()
