"""JSON-RPC alone: a request's text is decoded, its method looked up and called with its params, the answer encoded.

    python -m benchmarks.codec [--long]

There are no sockets. The limit is msgspec with classes made for this one request, which notices no batch, notification
or error, and keeps no record of unanswered requests.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks._figures import OURS, Form, Line, in_turns
from benchmarks._machine import SERVER_CORE, on_core
from benchmarks.peers.jsonrpc import LIMIT, PEERS, Answer
from mdashcore import Connection, RequestReceived, jsonrpc

ROW = "CODEC"
PARAMS = b'{"pin":12,"on":true,"level":0.5,"name":"lamp in the hall"}'
REQUEST = b'{"jsonrpc":"2.0","id":7,"method":"Sensor.Set","params":%b}' % PARAMS
ANSWER = {"jsonrpc": "2.0", "id": 7, "result": {"pin": 12, "level": 0.5}}
BATCH = 100  # calls between two looks at the clock
LONGEST = 0.5  # seconds of a turn: longer turns change nothing


def ours() -> Answer:
    """Return a function that answers with the whole `Connection`, and a table of methods."""
    connection = Connection()
    methods = {"Sensor.Set": lambda pin, on, level, name: {"pin": pin, "level": level}}

    def answer(text: bytes) -> bytes:
        connection.receive_data(text)
        for event in connection.events():
            if isinstance(event, RequestReceived):
                params = jsonrpc.loads(event.params or b"{}")
                connection.reply(event.ref, methods[event.method](**params))
        return connection.data_to_send()[0]

    return answer


def rate(answer: Answer, seconds: float) -> float:
    """Return answers per second of processor time: other programs on the machine do not count."""
    done, start = 0, time.process_time()
    while (now := time.process_time()) < start + seconds:
        for _ in range(BATCH):
            answer(REQUEST)
        done += BATCH
    return done / (now - start)


def run(form: Form) -> list[Line]:
    """Measure one set of samples, and make two lines of it."""
    missing: dict[str, str] = {}
    sides = {OURS: ours()}
    for name, make in (PEERS | {LIMIT[0]: LIMIT[1]}).items():
        try:
            sides[name] = make()
        except ImportError as exc:
            missing[name] = f"not installed: {exc.name}"
    for name, answer in sides.items():
        assert jsonrpc.loads(bytes(answer(REQUEST))) == ANSWER, name
    with on_core(SERVER_CORE):
        samples = in_turns(form.turns, {n: partial(rate, a, min(LONGEST, form.seconds)) for n, a in sides.items()})
    limit = {name: samples[name] for name in (OURS, LIMIT[0]) if name in samples}
    return [
        Line(ROW, "requests answered", "/s", samples, goal=1.5, reference=(LIMIT[0],), missing=missing),
        Line(ROW, "the same against the limit", "/s", limit, goal=0.35),
    ]


if __name__ == "__main__":
    from benchmarks.__main__ import run_alone

    run_alone(ROW, __doc__)
