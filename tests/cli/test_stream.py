"""The stream of notifications, as the commands read it."""

from __future__ import annotations

from contextlib import aclosing

import trio
import trio_websocket

from mdashcore.cli.client import Credentials, Remote
from mdashcore.cli.stream import open_notifications


async def test_what_comes_before_the_first_answer_is_read():
    """A busy fleet may talk before the answer to the first ping: that blocks nothing, and nothing is lost."""
    sent = [f'{{"name":"online","id":"d{n}"}}' for n in range(50)]

    async def serve(request):
        ws = await request.accept()
        for message in sent:
            await ws.send_message(message)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        remote = Remote(f"http://127.0.0.1:{server.port}", Credentials.of_key("mdk_x"))
        with trio.fail_after(5):
            async with open_notifications(remote) as frames, aclosing(frames):
                assert [await anext(frames) for _ in sent] == sent
        nursery.cancel_scope.cancel()
