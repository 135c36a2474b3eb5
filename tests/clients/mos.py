"""Says to a server what the tool `mos` says with ``--port http://…``, byte for byte, and reads its answer as strictly.

    python mos.py --port http://USER:PASSWORD@HOST:PORT/PATH call METHOD ['{"an": "argument"}']

The frame is what its Go type becomes as JSON, with a newline after it; the head is that of Go's HTTP client. The query
and the fragment of the URL are dropped. Any status but 200 is an error whose body is not looked at.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import sys
from typing import Any
from urllib.parse import unquote, urlsplit

TIMEOUT = 20  # seconds: its own for a call


def frame(method: str, params: str | None) -> tuple[int, bytes]:
    """A request's id and bytes."""
    id = random.randrange(2**40) | 2**40
    members = ['"src":"mos"', f'"id":{id}', f'"method":{json.dumps(method)}']
    if params is not None:
        members.append(f'"params":{json.dumps(json.loads(params), separators=(",", ":"))}')
    return id, ("{" + ",".join(members) + "}\n").encode()


def post(url: str, body: bytes) -> tuple[int, bytes]:
    """Send the body as Go does: status and body of the answer."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    lines = [f"POST {parts.path or '/'} HTTP/1.1", f"Host: {host}", "User-Agent: Go-http-client/1.1"]
    lines.append(f"Content-Length: {len(body)}")
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
    lines += ["Content-Type: application/json", "Accept-Encoding: gzip", "", ""]
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=TIMEOUT) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        head, answer = b"", b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        head, _, answer = head.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert b"content-encoding" not in fields, fields
        while len(answer) < int(fields.get(b"content-length", 0)):
            answer += connection.recv(65536)
    return int(head.split(b" ")[1]), answer


def call(url: str, method: str, params: str | None) -> Any:
    """The result of a call, where there is one. Raises `ValueError` with what `mos` would say."""
    id, body = frame(method, params)
    status, answer = post(url, body)
    if status != 200:
        raise ValueError(f"server returned an error: {status}")
    reply = json.loads(answer)
    if type(reply["id"]) is not int or reply["id"] != id or "method" in reply:
        raise ValueError("no answer to this call: mos would wait for ever")
    if (error := reply.get("error")) is not None:
        if type(error["code"]) is not int or type(error.get("message", "")) is not str:
            raise ValueError("an error that Go cannot read")
        raise ValueError(f"remote error {error['code']}: {error.get('message', '')}")
    return reply.get("result")


def main(arguments: list[str]) -> int:
    """Run the command."""
    match arguments:
        case ["--port", url, "call", method, *rest] if len(rest) < 2:
            try:
                result = call(url, method, rest[0] if rest else None)
            except ValueError as exc:
                sys.stderr.write(f"Error: {exc}\n")
                return 1
            sys.stdout.write(json.dumps(result, indent=2) + "\n")
            return 0
    sys.stderr.write(__doc__ or "")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
