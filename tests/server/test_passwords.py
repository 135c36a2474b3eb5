"""What a password costs, and what guessing gets."""

from __future__ import annotations

import threading
import time

import argon2
import attrs
import pytest
import trio
import trio.testing

from mdash_backends.memory import MemoryDocuments
from mdashcore._errors import Busy, InvalidInput, StorageError, Unauthenticated
from mdashcore.hub.accounts import Accounts
from mdashcore.hub.clock import Clock
from mdashcore.hub.sessions import Sessions
from mdashcore.server.auth import login_failures, passwords
from mdashcore.server.auth.login_failures import LOCK_TIME, MAX_DEAF, MAX_FAILURES, MAX_NAME_FAILURES, LoginFailures
from mdashcore.server.auth.login_log import FREE_LINES, FREE_PERIOD, LOGGER
from mdashcore.server.auth.passwords import MAX_PASSWORD, REFUSAL_DELAY, Passwords, check_threads

HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


class Hasher(argon2.PasswordHasher):
    """Counts its checks, and how many run at a time."""

    def __init__(self, seconds=0.0, parallelism=1):
        super().__init__(time_cost=1, memory_cost=8 * parallelism, parallelism=parallelism)
        self.seconds = seconds
        self.lock = threading.Lock()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.checks = self.running = self.most = 0

    def verify(self, *args):
        with self.lock:
            self.checks += 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            time.sleep(self.seconds)
            self.may_go_on.wait(10)
            return super().verify(*args)
        finally:
            with self.lock:
                self.running -= 1


async def make(hasher, **options):
    """Accounts, and the passwords of alice and bob."""
    accounts = Accounts(MemoryDocuments(), now=lambda: 0.0, entropy=bytes, on_revoked=lambda account, key: None)
    checker = Passwords(accounts, bytes(32), hasher, **{"refusal_delay": 0.0, **options})
    for name in ("alice", "bob"):
        await accounts.register(name, await checker.hash(f"{name}'s"))
    return accounts, checker


async def outcome(checker, name, password, address=HOME):
    """What a login gets: "in", or the name of the error."""
    try:
        await checker.check(name, password, address)
    except (Busy, Unauthenticated) as exc:
        return type(exc).__name__
    return "in"


async def guess(checker, times, name="alice", address=HOME):
    """Wrong passwords, one after the other: what each got."""
    return [await outcome(checker, name, f"wrong {number}", address) for number in range(times)]


# Right passwords


async def test_a_right_password_is_checked_once():
    """And known again for some minutes, until it is changed; another name's check does not count for it."""
    hasher = Hasher()
    accounts, checker = await make(hasher)
    for _ in range(100):
        assert (await checker.check("alice", "alice's")).name == "alice"
    assert hasher.checks == 1
    assert await outcome(checker, "bob", "alice's", "") == "Unauthenticated"
    assert hasher.checks == 2
    await accounts.set_password("alice", await checker.hash("new"))
    assert await outcome(checker, "alice", "alice's", "") == "Unauthenticated"
    await checker.check("alice", "new")
    assert hasher.checks == 4


async def test_a_known_password_is_forgotten_when_it_is_not_used(autojump_clock):
    """It lives for `REMEMBER_TIME` seconds from its last use: a client that asks every minute costs one check."""
    hasher = Hasher()
    _, checker = await make(hasher)
    for _ in range(10):
        await checker.check("alice", "alice's")
        autojump_clock.jump(passwords.REMEMBER_TIME - 1)
    assert hasher.checks == 1
    autojump_clock.jump(2)
    await checker.check("alice", "alice's")
    assert hasher.checks == 2


async def test_the_passwords_that_were_used_last_are_known(monkeypatch):
    """What is remembered is bounded, and a new one does not push out one that is in use."""
    monkeypatch.setattr(passwords, "MAX_REMEMBERED", 2)
    hasher = Hasher()
    _, checker = await make(hasher)
    for name, address, checks in [("alice", HOME, 1), ("bob", HOME, 2), ("alice", HOME, 2), ("bob", ELSEWHERE, 3)]:
        assert await outcome(checker, name, f"{name}'s", address) == "in"
        assert hasher.checks == checks
    assert await outcome(checker, "alice", "alice's") == "in"
    assert hasher.checks == 3
    assert len(checker._remembered) == 2


async def test_an_account_that_was_removed_has_no_password():
    """Also where the password was known a moment ago."""
    accounts, checker = await make(Hasher())
    await checker.check("alice", "alice's")
    await accounts.remove("alice")
    assert await outcome(checker, "alice", "alice's", "") == "Unauthenticated"


# Hashes of before


async def test_a_hash_with_other_parameters_is_made_anew():
    """At the next right login, and nothing else changes: sessions go on, and what was remembered is known."""
    accounts, _ = await make(Hasher(parallelism=4))
    before = await accounts.get("alice")
    assert "p=4" in before.password_hash
    revoked = []
    clock = Clock(lambda: 0.0, lambda: 0.0)
    sessions = Sessions(
        MemoryDocuments(), accounts, clock=clock, entropy=bytes, on_revoked=lambda *which: revoked.append(which)
    )
    session = await sessions.create(before)
    hasher = Hasher()
    checker = Passwords(accounts, bytes(32), hasher, refusal_delay=0.0)
    assert await outcome(checker, "alice", "wrong") == "Unauthenticated"
    assert await accounts.get("alice") == before
    assert await outcome(checker, "alice", "alice's") == "in"
    after = await accounts.get("alice")
    assert "p=1" in after.password_hash
    assert after == attrs.evolve(before, password_hash=after.password_hash, rehashed_from=before.credential)
    assert (await sessions.authenticate(session.secret))[1] == after
    assert revoked == []
    assert await outcome(checker, "alice", "alice's") == "in"
    assert hasher.checks == 2
    other = Passwords(accounts, bytes(32), Hasher(parallelism=2))
    assert await outcome(other, "alice", "alice's") == "in"
    assert (await sessions.authenticate(session.secret))[1].name == "alice"
    changed = await accounts.set_password("alice", await checker.hash("alice's"))
    assert changed.rehashed_from == ""
    with pytest.raises(Unauthenticated):
        await sessions.authenticate(session.secret)


async def test_a_password_that_was_changed_meanwhile_stays_changed(monkeypatch):
    """The hash that was made anew is that of a password that is no more."""
    accounts, _ = await make(Hasher(parallelism=4))
    checker = Passwords(accounts, bytes(32), Hasher())
    old = await accounts.get("alice")
    new = await accounts.set_password("alice", await checker.hash("new"))
    await accounts.replace_hash(old, await checker.hash("alice's"))
    assert await accounts.get("alice") == new


async def test_a_store_that_takes_no_writes_fails_no_login(monkeypatch):
    """The hash stays as it was."""
    accounts, _ = await make(Hasher(parallelism=4))

    async def full(*args, **options):
        raise StorageError("the disk is full")

    monkeypatch.setattr(accounts._accounts, "put", full)
    assert await outcome(Passwords(accounts, bytes(32), Hasher()), "alice", "alice's") == "in"
    assert "p=4" in (await accounts.get("alice")).password_hash


async def test_passwords_are_argon2id_with_the_library_s_cost():
    """64 MB and three passes (RFC 9106), in one thread: two checks must not take all cores."""
    accounts, _ = await make(Hasher())
    digest = await Passwords(accounts, bytes(32)).hash("x")
    assert digest.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert 1 <= check_threads() <= passwords.MAX_THREADS


# The cost of a check for other logins


async def test_an_unknown_name_costs_the_same_work():
    """Or the time would tell which names there are."""
    hasher = Hasher()
    _, checker = await make(hasher)
    for number in range(3):
        assert await outcome(checker, f"nobody{number}", "x") == "Unauthenticated"
    assert hasher.checks == 3


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "x" * (MAX_PASSWORD + 1)),
        ("alice", ""),
        ("x" * 65, "x"),
        ("", "x"),
        ("alice/../root", "x"),
        ("a\nb", "x"),
        ("\ud800", "x"),
    ],
)
async def test_what_can_be_no_login_costs_nothing(name, password):
    """It costs no check and no memory: it pushes out no lock, and makes none."""
    hasher = Hasher()
    _, checker = await make(hasher)
    for _ in range(3 * MAX_FAILURES):
        assert await outcome(checker, name, password) == "Unauthenticated"
    assert hasher.checks == 0
    assert not checker._failures._locks
    assert not checker._failures._sums
    assert await outcome(checker, "alice", "alice's") == "in"


@pytest.mark.parametrize("password", ["", None, 7, "x" * (MAX_PASSWORD + 1), b"bytes"])
async def test_what_is_no_password(password):
    """Nothing is hashed for it."""
    _, checker = await make(Hasher())
    with pytest.raises(InvalidInput):
        await checker.hash(password)


async def test_few_checks_run_at_a_time_and_few_wait(monkeypatch):
    """A login that finds the queue full is told to come later, and no check is lost."""
    hasher = Hasher(0.002)
    _, checker = await make(hasher, threads=2)
    outcomes = []

    async def check(number):
        outcomes.append(await outcome(checker, f"name{number}", "x"))

    waiting = checker._turns._queue._size
    async with trio.open_nursery() as nursery:
        for number in range(2 + waiting + 20):
            nursery.start_soon(check, number)
    assert hasher.most == 2
    assert outcomes.count("Unauthenticated") == hasher.checks == 2 + waiting
    assert outcomes.count("Busy") == 20
    assert (checker._turns._free, len(checker._turns._queue), checker._turns._tasks) == (2, 0, {})


async def test_a_login_does_not_wait_for_ever(monkeypatch):
    """After `MAX_WAIT` seconds it is told to come later."""
    monkeypatch.setattr(passwords, "MAX_LOGIN_WAIT", 0.05)
    _, checker = await make(Hasher(0.3), threads=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome, checker, "bob", "x")
        await trio.testing.wait_all_tasks_blocked()
        assert await outcome(checker, "alice", "alice's") == "Busy"
    assert await outcome(checker, "alice", "alice's") == "in"


async def test_a_login_that_is_given_up_passes_its_turn_on():
    """A client that goes away while it waits, or just as its turn comes, delays no other login."""
    _, checker = await make(Hasher(0.02), threads=1)
    outcomes = []

    async def check(name):
        outcomes.append(await outcome(checker, name, "x"))

    for _ in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, "first")
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                nursery.start_soon(check, "second")
                async with trio.open_nursery() as inner:
                    for number in range(3):
                        inner.start_soon(check, f"gone{number}")
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
    assert outcomes == ["Unauthenticated"] * 10
    assert (checker._turns._free, checker._turns._tasks) == (1, {})


async def test_a_refusal_takes_its_time(autojump_clock, monkeypatch):
    """A client that asks again and again without being checked costs little; not so many wait that it costs more."""
    _, checker = await make(Hasher(), refusal_delay=REFUSAL_DELAY)
    started = trio.current_time()
    await outcome(checker, "", "x")
    assert trio.current_time() - started == REFUSAL_DELAY
    monkeypatch.setattr(passwords, "MAX_DELAYED", 0)
    started = trio.current_time()
    await outcome(checker, "", "x")
    assert trio.current_time() == started


# Guessing


async def test_a_lock_holds_for_address_and_name(autojump_clock):
    """After ten wrong ones no login by that name succeeds there for a minute; all other logins do."""
    hasher = Hasher()
    _, checker = await make(hasher)
    assert await guess(checker, MAX_FAILURES + 3) == ["Unauthenticated"] * MAX_FAILURES + ["Busy"] * 3
    assert await outcome(checker, "alice", "alice's") == "Busy"
    assert hasher.checks == MAX_FAILURES
    assert await outcome(checker, "bob", "bob's") == "in"
    assert await outcome(checker, "alice", "alice's", ELSEWHERE) == "in"
    with pytest.raises(Busy) as caught:
        await checker.check("alice", "alice's", HOME)
    assert LOCK_TIME - 1 < caught.value.retry_after <= LOCK_TIME
    autojump_clock.jump(LOCK_TIME + 1)
    assert await outcome(checker, "alice", "alice's") == "in"


async def test_failures_long_ago_do_not_count(autojump_clock):
    """Nine mistakes on Monday and one on Tuesday make no lock."""
    _, checker = await make(Hasher())
    for _ in range(3):
        assert await guess(checker, MAX_FAILURES - 1) == ["Unauthenticated"] * (MAX_FAILURES - 1)
        autojump_clock.jump(LOCK_TIME + 1)
    assert await outcome(checker, "alice", "alice's") == "in"


async def test_a_right_password_forgets_the_mistakes():
    """Of the address that it came from."""
    _, checker = await make(Hasher())
    for _ in range(3):
        await guess(checker, MAX_FAILURES - 1)
        await checker.check("alice", "alice's", HOME)
        checker._remembered.clear()
    assert "Busy" not in await guess(checker, MAX_FAILURES)


async def test_an_ipv6_network_is_one_client():
    """A customer has 2**64 addresses: all of them are one."""
    _, checker = await make(Hasher())
    outcomes = [await outcome(checker, "alice", "wrong", f"2001:db8:1:2::{n:x}") for n in range(MAX_FAILURES + 1)]
    assert outcomes[-1] == "Busy"
    assert await outcome(checker, "alice", "alice's", "2001:db8:1:2:ffff::1") == "Busy"
    assert await outcome(checker, "alice", "alice's", "2001:db8:1:3::1") == "in"


async def test_a_name_that_many_addresses_guess_is_closed_to_strangers(autojump_clock):
    """After a hundred failures in a minute only those are checked that come from where the name has logged in."""
    hasher = Hasher()
    _, checker = await make(hasher)
    assert await outcome(checker, "alice", "alice's") == "in"
    checker._remembered.clear()
    outcomes = []
    for number in range(MAX_NAME_FAILURES // MAX_FAILURES + 5):
        outcomes += await guess(checker, MAX_FAILURES, address=f"203.0.113.{number}")
    assert outcomes.count("Unauthenticated") == MAX_NAME_FAILURES
    assert hasher.checks == 1 + MAX_NAME_FAILURES
    assert await outcome(checker, "alice", "alice's", ELSEWHERE) == "Busy"
    assert await outcome(checker, "alice", "alice's", HOME) == "in"
    assert await outcome(checker, "bob", "bob's", ELSEWHERE) == "in"
    autojump_clock.jump(login_failures.FAILURE_WINDOW + 1)
    assert await outcome(checker, "alice", "alice's", ELSEWHERE) == "in"


async def test_names_without_an_account_are_closed_too():
    """Or the answer would tell which names there are."""
    _, checker = await make(Hasher())
    for number in range(MAX_NAME_FAILURES // MAX_FAILURES):
        await guess(checker, MAX_FAILURES, name="nobody", address=f"203.0.113.{number}")
    assert await outcome(checker, "nobody", "x", ELSEWHERE) == "Busy"


async def test_many_guesses_at_the_same_time_are_no_way_around_the_lock():
    """Of a burst only ten count: a right one whose turn would come after them is not told apart from a wrong one."""
    hasher = Hasher()
    _, checker = await make(hasher, threads=3)
    hasher.may_go_on.clear()
    outcomes = []

    async def check(password):
        outcomes.append(await outcome(checker, "alice", password))

    async with trio.open_nursery() as nursery:
        for number in range(43):
            nursery.start_soon(check, "alice's" if number == 3 else f"wrong{number}")
            await trio.testing.wait_all_tasks_blocked()  # three run, the right one waits, and so do those after it
        hasher.may_go_on.set()
    assert "in" not in outcomes
    assert hasher.checks <= MAX_FAILURES + 2  # those that ran beside the tenth


async def test_guesses_do_not_shut_out_a_client_that_is_in():
    """A login that was right a moment ago goes on where its name is locked; but it is no way to guess at full speed."""
    _, checker = await make(Hasher())
    assert await outcome(checker, "alice", "alice's") == "in"
    await guess(checker, MAX_FAILURES + 1)
    assert await outcome(checker, "alice", "alice's") == "in"
    await guess(checker, MAX_DEAF)
    assert await outcome(checker, "alice", "alice's") == "Busy"


async def test_what_is_remembered_opens_nothing_elsewhere():
    """A guess from another address is checked, counted and locked, though the password is known here."""
    hasher = Hasher()
    _, checker = await make(hasher)
    assert await outcome(checker, "alice", "alice's") == "in"
    await guess(checker, MAX_FAILURES, address=ELSEWHERE)
    assert await outcome(checker, "alice", "alice's", ELSEWHERE) == "Busy"


async def test_what_is_kept_of_failures_is_bounded(monkeypatch):
    """Unknown names push out older ones; there are fewer checks in a minute than places."""
    monkeypatch.setattr(login_failures, "MAX_TRACKED", 5)
    monkeypatch.setattr(login_failures, "MAX_KNOWN_NAMES", 2)
    monkeypatch.setattr(login_failures, "MAX_KNOWN_NETWORKS", 3)
    failures = LoginFailures()
    for number in range(8):
        failures.fail(HOME, f"nobody{number}", float(number))
    assert [name for _, name in failures._locks] == list(failures._sums) == [f"nobody{n}" for n in range(3, 8)]
    for name in ("alice", "bob", "carol"):
        for number in range(5):
            failures.succeed(f"192.0.2.{number}", name)
    assert list(failures._known) == ["bob", "carol"]
    assert list(failures._known["bob"]) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]


# The log


async def test_each_failed_login_and_each_lock_is_a_line(caplog):
    """With name and address, the name so that it cannot look like anything else."""
    _, checker = await make(Hasher())
    await guess(checker, MAX_FAILURES + 2)
    await outcome(checker, 'x" address=203.0.113.9\nlogin failed: address=203.0.113.9', "x")
    await outcome(checker, "ü", "x", "")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert lines == [
        *['login failed: address=192.0.2.1 name="alice"'] * MAX_FAILURES,
        'login locked: address=192.0.2.1 name="alice" seconds=60',
        'login failed: address=192.0.2.1 name="x\\" address=203.0.113.9\\nlogin failed: address=203.0.113.9"',
        'login failed: address=- name="\\u00fc"',
    ]


async def test_what_costs_nothing_does_not_fill_the_log(caplog, autojump_clock):
    """Only some of the impossible logins of a minute are logged, and how many were not."""
    _, checker = await make(Hasher())
    for _ in range(FREE_LINES + 7):
        await outcome(checker, "x" * 9999, "x")
    autojump_clock.jump(FREE_PERIOD)
    await outcome(checker, "", "x")
    lines = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert lines[-2:] == [
        "7 more failed logins, with impossible names or passwords",
        'login failed: address=192.0.2.1 name=""',
    ]
    assert len(lines) == FREE_LINES + 2
    assert max(len(line) for line in lines) < 200
