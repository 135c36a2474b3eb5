"""JSON-RPC libraries, each with the same method, as their manuals use them. One not installed raises `ImportError`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["LIMIT", "PEERS", "Answer"]

Answer = Callable[[bytes], bytes]
"""A function from the text of a request to that of its answer."""


def set_(pin: int, on: bool, level: float, name: str) -> dict[str, Any]:
    """The method that is called."""
    return {"pin": pin, "level": level}


def pjrpc() -> Answer:
    from pjrpc.server import Dispatcher, MethodRegistry

    registry = MethodRegistry()
    registry.add_method(set_, "Sensor.Set")
    dispatcher: Any = Dispatcher()
    dispatcher.add_methods(registry)

    def answer(text: bytes) -> bytes:
        found = dispatcher.dispatch(text.decode(), None)
        return str(found[0]).encode()

    return answer


def ajsonrpc() -> Answer:
    from ajsonrpc.dispatcher import Dispatcher
    from ajsonrpc.manager import AsyncJSONRPCResponseManager

    dispatcher = Dispatcher()
    dispatcher.add_function(set_, name="Sensor.Set")
    manager = AsyncJSONRPCResponseManager(dispatcher)
    run = asyncio.new_event_loop().run_until_complete

    def answer(text: bytes) -> bytes:
        return str(run(manager.get_payload_for_payload(text.decode()))).encode()

    return answer


def jsonrpcserver() -> Answer:
    from jsonrpcserver import Success, dispatch

    def wrapped(**params: Any) -> Any:
        return Success(set_(**params))

    methods: dict[str, Any] = {"Sensor.Set": wrapped}

    def answer(text: bytes) -> bytes:
        return str(dispatch(text.decode(), methods=methods)).encode()

    return answer


def python_lsp_jsonrpc() -> Answer:
    from pylsp_jsonrpc import endpoint

    try:
        import ujson as codec  # the codec of its streams, if it is installed
    except ImportError:
        codec = json
    logging.getLogger(endpoint.__name__).setLevel(logging.ERROR)
    sent: list[Any] = []
    peer = endpoint.Endpoint({"Sensor.Set": lambda params: set_(**params)}, sent.append)

    def answer(text: bytes) -> bytes:
        peer.consume(codec.loads(text.decode()))
        return str(codec.dumps(sent.pop())).encode()

    return answer


class _Params(msgspec.Struct):
    pin: int
    on: bool
    level: float
    name: str


class _Request(msgspec.Struct):
    jsonrpc: str
    id: int
    method: str
    params: _Params


class _Result(msgspec.Struct):
    pin: int
    level: float


class _Response(msgspec.Struct):
    jsonrpc: str
    id: int
    result: _Result


def msgspec_alone() -> Answer:
    decode, encode = msgspec.json.Decoder(_Request).decode, msgspec.json.Encoder().encode
    methods = {"Sensor.Set": lambda params: _Result(params.pin, params.level)}

    def answer(text: bytes) -> bytes:
        request = decode(text)
        return encode(_Response("2.0", request.id, methods[request.method](request.params)))

    return answer


PEERS: dict[str, Callable[[], Answer]] = {
    "pjrpc": pjrpc,
    "ajsonrpc": ajsonrpc,
    "jsonrpcserver": jsonrpcserver,
    "python-lsp-jsonrpc": python_lsp_jsonrpc,
}

LIMIT = ("msgspec alone", msgspec_alone)
