"""The hub as a whole: what concerns several of its parts, and what it tells its observer."""

from __future__ import annotations

from itertools import count

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdashcore import _json, ota
from mdashcore._connection import Connection
from mdashcore._errors import (
    AlreadyExists,
    Conflict,
    InvalidSetting,
    MdashError,
    NotFound,
    RpcError,
    StorageError,
    Unauthenticated,
)
from mdashcore.hub import Hub, HubObserver, LogQuery
from mdashcore.hub.device_session import DEVICE_METHODS, DeviceSession, is_progress
from mdashcore.identity import DeviceKey, hash_token
from mdashcore.testing import ConnectionPair


@attrs.define
class Recorder:
    """A listener that writes down what it is told."""

    told: list = attrs.Factory(list)
    frames: list = attrs.Factory(list)

    def notified(self, account, item):
        self.frames.append(item.frame)

    def shadow_changed(self, key, change):
        self.told.append(("shadow_changed", str(key), change.version))

    def device_revoked(self, key):
        self.told.append(("device_revoked", str(key)))

    def build_reported(self, key, build):
        self.told.append(("build_reported", str(key), build.id))

    def device_removed(self, key, node):
        self.told.append(("device_removed", str(key)))

    def key_revoked(self, account, key):
        self.told.append(("key_revoked", account, key))


@pytest.fixture(scope="session")
def make(tools):
    """Makes a hub on a new store, and its listener."""

    def build():
        hub, recorder = (
            Hub(
                tools.backend(), now=lambda: 1000.0, monotonic=lambda: 0.0, entropy=tools.entropy(), signal=tools.signal
            ),
            Recorder(),
        )
        hub.add_observer(recorder)
        return hub, recorder

    return build


def log(tools, hub, account="alice"):
    frames = tools.run(hub.feed.query(account, LogQuery(limit=1000)))
    return [(note["name"], note["id"]) for note in map(_json.decode, frames)]


def desired(**state):
    return {"state": {"desired": state}}


@pytest.mark.parametrize("observer", [None, object(), HubObserver, Connection])
def test_an_observer_that_is_none(observer, make):
    """Refused where it is added, not at the first change."""
    hub, _ = make()
    with pytest.raises(InvalidSetting, match="observer"):
        hub.add_observer(observer)


def test_the_life_of_a_device(tools, make):
    """The calls of the observer, and the notifications, from its registration to its removal."""
    hub, recorder = make()
    token = tools.run(hub.create_device("alice", "d1", "Pump")).token
    tools.run(hub.rename_device(DeviceKey("alice", "d1"), "Lamp"))
    tools.run(hub.shadows.update(DeviceKey("alice", "d1"), desired(on=True)))
    tools.run(hub.registry.renew_token(DeviceKey("alice", "d1")))
    tools.run(hub.remove_device(DeviceKey("alice", "d1")))
    assert recorder.told == [
        ("shadow_changed", "alice/d1", 1),
        ("device_revoked", "alice/d1"),
        ("device_revoked", "alice/d1"),
        ("device_removed", "alice/d1"),
    ]
    assert log(tools, hub) == [("created", "d1"), ("updated", "d1"), ("updated", "d1"), ("deleted", "d1")]
    assert recorder.frames == tools.run(hub.feed.query("alice", LogQuery()))
    assert token not in str(tools.run(hub.feed.query("alice", LogQuery())))
    hub.remove_observer(recorder)
    tools.run(hub.create_device("alice", "d2"))
    tools.run(hub.remove_device(DeviceKey("alice", "d2")))
    assert len(recorder.told) == 4


def test_what_was_refused_is_not_told(tools, make):
    """No notification of what did not happen."""
    hub, recorder = make()
    tools.run(hub.create_device("alice", "d1"))
    for coroutine in (
        hub.create_device("alice", "d1"),
        hub.rename_device(DeviceKey("alice", "d2"), "n"),
        hub.rename_device(DeviceKey("alice", "d1"), "x" * 300),
        hub.remove_device(DeviceKey("alice", "d2")),
        hub.remove_account("alice"),
    ):
        with pytest.raises(Exception, match=r"already|no device|no user|at most"):
            tools.run(coroutine)
    assert log(tools, hub) == [("created", "d1")]
    assert recorder.told == []


@given(choices=st.lists(st.integers(0, 2), max_size=80))
def test_a_device_created_anew_is_empty(tools, make, choices):
    """Whatever the old one was still reporting while it was removed: neither its shadow nor its presence is seen."""
    hub, _ = make()
    tools.run(hub.create_device("alice", "d1"))
    session = tools.run(hub.presence.claim(DeviceKey("alice", "d1"), "node")).session
    tools.interleave(
        [
            hub.remove_device(DeviceKey("alice", "d1")),
            hub.shadows.update(DeviceKey("alice", "d1"), desired(on=True)),
            hub.presence.claim(DeviceKey("alice", "d1"), "node"),
            hub.presence.release(DeviceKey("alice", "d1"), session, 999.0),
        ],
        choices,
    )
    tools.run(hub.create_device("alice", "d1"))
    shadow = tools.run(hub.shadows.get(DeviceKey("alice", "d1")))
    assert (shadow.desired, shadow.reported) == (None, None)
    record = tools.run(hub.presence.get(DeviceKey("alice", "d1")))
    assert (record.online, record.last_seen) == (False, None)


def test_a_removed_account_leaves_nothing(tools, make):
    """No device, key or notification is left, and no other account's is touched; a new account of the name is empty."""
    hub, recorder = make()
    tokens = {}
    for name in ("al", "alice"):
        tools.run(hub.accounts.register(name, "hash"))
        tools.run(hub.accounts.create_key(name))
        tokens[name] = tools.run(hub.create_device(name, "d1")).token
        tools.run(hub.shadows.update(DeviceKey(name, "d1"), desired(on=name)))
    tools.run(hub.remove_account("al"))
    assert recorder.told[-1] == ("device_removed", "al/d1")
    assert ("key_revoked", "al", None) in recorder.told
    assert not [told for told in recorder.told[2:] if told[1] == "alice"]
    tools.run(hub.accounts.register("al", "hash"))
    assert log(tools, hub, "al") == []
    assert tools.run(hub.registry.of("al")) == tools.run(hub.accounts.keys("al")) == []
    assert tools.run(hub.shadows.get(DeviceKey("al", "d1"))).desired is None
    assert tools.run(hub.registry.authenticate(tokens["alice"])).account == "alice"
    assert len(log(tools, hub, "alice")) == 2
    with pytest.raises(NotFound):
        tools.run(hub.remove_account("nobody"))
    tools.run(hub.accounts.set_password("al", "hash", admin=True))
    with pytest.raises(Conflict):
        tools.run(hub.remove_account("al"))
    assert tools.run(hub.accounts.get("al")) is not None


@pytest.mark.parametrize("why", [0, 1])
def test_a_removal_of_a_device_that_is_stopped_anywhere(tools, make, why):
    """Its socket was closed if its token is not valid any more; the next try leaves nothing, or there was nothing."""
    for steps in count(1):
        hub, recorder = make()
        token = tools.run(hub.create_device("alice", "d1")).token
        tools.run(hub.shadows.update(DeviceKey("alice", "d1"), desired(on=True)))
        stopped = tools.stop(hub.remove_device(DeviceKey("alice", "d1")), steps, tools.stops[why]())
        if isinstance(outcome(tools, hub.registry.authenticate(token)), Unauthenticated):
            assert ("device_revoked", "alice/d1") in recorder.told, steps
        again = outcome(tools, hub.remove_device(DeviceKey("alice", "d1")))
        assert again is None or isinstance(again, NotFound), steps
        assert ("device_removed", "alice/d1") in recorder.told, steps
        assert tools.run(hub.registry.of("alice")) == [], steps
        assert tools.run(hub.shadows.get(DeviceKey("alice", "d1"))).desired is None, steps
        assert not hub.backend.documents.inner._collections["token_owners"], steps
        if again is None:
            assert ("deleted", "d1") in log(tools, hub), steps
        if not stopped:
            return


@pytest.mark.parametrize("why", [0, 1])
def test_an_import_of_a_device_that_is_stopped_anywhere(tools, make, why):
    """The next try announces the device, if the first one has not. What the device has done meanwhile stays."""
    key, token = DeviceKey("alice", "d1"), "Q2hhbmdlIG1lIQ-8f2a9c"
    for steps in count(1):
        hub, _ = make()
        tools.run(hub.shadows.update(key, desired(old=True)))  # what an earlier device of the id has left
        tools.run(hub.summaries.of("alice"))
        stopped = tools.stop(hub.adopt_device("alice", "d1", hash_token(token), "Pump"), steps, tools.stops[why]())
        is_valid = not isinstance(outcome(tools, hub.registry.authenticate(token)), Unauthenticated)
        if is_valid:
            tools.run(hub.presence.claim(key, "node"))
            tools.run(hub.shadows.update(key, desired(new=True)))
        assert tools.run(hub.adopt_device("alice", "d1", hash_token(token), "Pump")) is not is_valid, steps
        assert tools.run(hub.registry.get(key)).is_announced, steps
        assert ("created", "d1") in log(tools, hub), steps
        row = tools.run(hub.summaries.of("alice")).rows["d1"]
        assert (row.name, row.online) == ("Pump", is_valid), steps
        assert tools.run(hub.shadows.get(key)).desired == ({"new": True} if is_valid else None), steps
        announced = len(log(tools, hub))
        assert not tools.run(hub.adopt_device("alice", "d1", hash_token(token))), steps
        assert len(log(tools, hub)) == announced, steps
        if not stopped:
            return


@pytest.mark.parametrize("why", [0, 1])
def test_a_removal_of_an_account_that_is_stopped_anywhere(tools, make, why):
    """Before all of it is gone nothing of it is valid, and the name is not free; the next try removes the rest."""
    for steps in count(1):
        hub, recorder = make()
        tools.run(hub.accounts.register("al", "hash"))
        account = tools.run(hub.accounts.get("al"))
        session = tools.run(hub.sessions.create(account))
        tools.run(hub.accounts.create_key("al"))
        tokens = [tools.run(hub.create_device("al", id)).token for id in ("d1", "d2")]
        tools.run(hub.shadows.update(DeviceKey("al", "d2"), desired(secret=1)))
        stopped = tools.stop(hub.remove_account("al"), steps, tools.stops[why]())
        if tools.run(hub.accounts.get("al")) is None:  # it has begun
            assert ("key_revoked", "al", None) in recorder.told, steps
            assert isinstance(outcome(tools, hub.sessions.authenticate(session.secret)), Unauthenticated), steps
            for token in tokens:
                assert isinstance(outcome(tools, hub.registry.authenticate(token)), Unauthenticated), steps
            if stopped and (taken := outcome(tools, hub.accounts.register("al", "other"))) is None:
                assert len(tools.run(hub.registry.of("al"))) == 0, steps
            elif stopped:
                assert isinstance(taken, AlreadyExists), steps
        again = outcome(tools, hub.remove_account("al"))
        assert again is None or isinstance(again, NotFound), steps
        left = hub.backend.documents.inner._collections
        for name in ("accounts", "keys", "key_owners", "sessions", "devices", "token_owners"):
            assert not left[name], (steps, name)
        assert tools.run(hub.shadows.get(DeviceKey("al", "d2"))).desired is None, steps
        assert log(tools, hub, "al") == [], steps
        if not stopped:
            return


def test_an_update_of_a_device_that_is_removed_meanwhile(tools, make):
    """However the two cross each other: there is an update only as long as there is the device."""
    image = ota.UpdateImage("lamp.zip", 3, "00" * 32)

    @given(choices=st.lists(st.integers(0, 1), max_size=60))
    def law(choices):
        hub, _ = make()
        tools.run(hub.create_device("alice", "d1"))
        created, removed = tools.interleave(
            [hub.updates.create(DeviceKey("alice", "d1"), "ota_1", image), hub.remove_device(DeviceKey("alice", "d1"))],
            choices,
        )
        assert removed.error is None
        assert created.error is None or isinstance(created.error, NotFound)
        assert tools.run(hub.updates.get(DeviceKey("alice", "d1"))) is None

    law()


def outcome(tools, coroutine):
    """The error that a coroutine ends with, or None."""
    try:
        tools.run(coroutine)
    except MdashError as exc:
        return exc
    return None


# A device's session


class Talk:
    """A device's connection and the service's side of it, without a transport."""

    def __init__(self, tools, hub):
        self.tools = tools
        self.session = DeviceSession(hub, DeviceKey("alice", "d1"))
        self.pair = ConnectionPair(Connection(), Connection())

    def say(self, method, params=None, *, call=True):
        """What the service answers: a result, an `RpcError`, or None to a notification."""
        device, service = self.pair.left, self.pair.right
        if call:
            device.call(method, params)
        else:
            device.notify(method, params)
        _, events = self.pair.pump()
        for event in events:
            self.tools.run(self.session.handle(event, service))
        answers, _ = self.pair.pump()
        return [answer.error or _json.decode(answer.result) for answer in answers]


@pytest.fixture
def talk(tools, make):
    """A registered device's session, its hub and listener."""
    hub, recorder = make()
    tools.run(hub.create_device("alice", "d1"))
    return Talk(tools, hub), hub, recorder


@pytest.mark.parametrize("method", DEVICE_METHODS)
@pytest.mark.parametrize("params", [b"null", b"7", b"[]", b"{}", b'{"state":7}', b'"' + b"x" * 40_000 + b'"'])
def test_every_method_answers_anything(talk, method, params):
    """A request gets exactly one answer, a notification none, whatever the parameters are."""
    talk, _, _ = talk
    assert len(talk.say(method, params)) == 1
    assert talk.say(method, params, call=False) == []


def test_the_observer_hears_of_a_build(talk, tools):
    """From a report and from a heartbeat; what a user writes into the shadow is no report."""
    talk, hub, recorder = talk
    assert not talk.session.introduced
    tools.run(hub.shadows.update(DeviceKey("alice", "d1"), {"state": {"reported": {"ota": {"fw_id": "person"}}}}))
    assert not talk.session.introduced
    talk.say("Dash.Shadow.Update", b'{"state":{"reported":{"ota":{"fw_id":"a"}}}}', call=False)
    assert talk.session.introduced
    talk.say("Dash.Heartbeat", b'{"fw_id":"b"}')
    talk.say("Dash.Shadow.Update", b'{"state":{"reported":{"stats":{}}}}', call=False)
    assert [told[2] for told in recorder.told if told[0] == "build_reported"] == ["a", "b"]


def test_an_unknown_method(talk, tools):
    """A request is refused, and not notified; a notification is notified."""
    talk, hub, _ = talk
    (error,) = talk.say("No.Such")
    assert isinstance(error, RpcError)
    assert error.code == -32601
    talk.say("No.Such", b"[1]", call=False)
    assert log(tools, hub)[1:] == [("rpc.out.No.Such", "d1")]


def test_a_storage_that_fails_is_no_answer(talk, tools, monkeypatch):
    """The error goes to the caller of the session: a device without an answer reports again."""
    talk, hub, _ = talk

    async def fail(*args, **options):
        raise StorageError("redis://10.0.0.7 is down")

    monkeypatch.setattr(hub.backend.documents, "put", fail)
    for call in (True, False):
        with pytest.raises(StorageError):
            talk.say("Dash.Shadow.Update", b'{"state":{"reported":{"a":1}}}', call=call)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (b'{"ota":{"percent":7}}', True),
        (b'{"ota":{"progress":7.5}}', True),
        (b' { "ota" : {"progress_percent":0} } ', True),
        (b'{"ota":{}}', False),
        (b'{"ota":{"percent":"7"}}', False),
        (b'{"ota":{"percent":7,"fw_id":"x"}}', False),
        (b'{"ota":{"percent":7},"on":true}', False),
        (b'{"ota":7}', False),
        (b'[{"ota":{"percent":7}}]', False),
        (b'{"ota":{"percent":7}}'.ljust(200), False),
        (b"7", False),
        (None, False),
    ],
)
def test_what_is_progress(params, expected):
    """Parameters that tell how far a transfer is, and nothing else: what else they say must not be merged away."""
    assert is_progress(params) is expected
