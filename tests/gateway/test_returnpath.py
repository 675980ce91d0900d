"""The return-path machine: conversations in its own words, and its laws under any order of events."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from sidegate.gateway.clients.returnpath import (
    CLIENTS_MOST,
    FORGET_S,
    RENEW_S,
    RETRY_LONGEST_S,
    STALE_CALM_S,
    Command,
    Prove,
    ReturnPaths,
    Verdict,
    Withdraw,
)
from sidegate.gateway.ruleset.nft import PROOF_TIMEOUT_S, Client


def client(number: int) -> Client:
    return Client(f"02:00:00:00:00:{number:02x}", IPv4Address(f"192.168.1.{number}"))


TV, PHONE = client(16), client(17)


class Talk:
    """One client's conversation; the clock is moved by `later`."""

    def __init__(self) -> None:
        self.paths, self.now = ReturnPaths(), 1000.0

    def later(self, seconds: float) -> Talk:
        self.now += seconds
        return self

    def seen(self, who: Client = TV, *, active: bool = True) -> Talk:
        self.paths.seen(who, self.now, active=active)
        return self

    def due(self) -> list[Client]:
        return self.paths.due(self.now)

    def probed(self, verdict: Verdict, who: Client = TV) -> list[Command]:
        return self.paths.probed(who, verdict, verdict, self.now)

    def path(self, who: Client = TV) -> str:
        standing = self.paths.get(who)
        return f"{standing.path}{'' if standing.decided else ' for now'}" if standing else "unknown"


def test_made_up_clients_fill_no_memory_and_drive_nobody_out() -> None:
    talk = proved()
    made_up = [Client(f"02:ff:00:00:{n >> 8:02x}:{n & 255:02x}", IPv4Address("10.0.0.1")) for n in range(CLIENTS_MOST)]
    met = [talk.paths.seen(it, talk.now, active=True) for it in made_up]
    assert (sum(met), len(talk.paths)) == (CLIENTS_MOST - 1, CLIENTS_MOST)
    assert not talk.paths.fixed(PHONE, "direct", talk.now, active=True)
    assert talk.later(RENEW_S).seen().path() == "direct"
    assert TV in talk.due()


def proved() -> Talk:
    """The TV has just been proved."""
    talk = Talk().seen().later(0.5)
    assert talk.due() == [TV]
    assert talk.probed("direct") == [Prove(TV, PROOF_TIMEOUT_S)]
    return talk


def test_new_client_is_masqueraded_and_probed_at_once() -> None:
    talk = Talk()
    assert talk.paths.seen(TV, talk.now, active=False)
    assert (talk.path(), talk.due(), talk.due()) == ("masqueraded for now", [TV], [])
    assert not talk.paths.seen(TV, talk.now, active=True)
    assert (talk.probed("direct"), talk.path()) == ([Prove(TV)], "direct")


def test_masquerade_verdict_is_probed_again_late() -> None:
    talk = Talk().seen()
    talk.due()
    assert (talk.probed("masquerade"), talk.path()) == ([], "masqueraded")
    assert talk.later(RETRY_LONGEST_S - 1).seen().due() == []
    assert talk.later(1).due() == [TV]


def test_proof_is_renewed_only_by_a_probe() -> None:
    talk = proved()
    assert talk.later(RENEW_S - 1).seen().due() == []
    assert talk.later(1).due() == [TV]
    assert talk.probed("direct") == [Prove(TV, PROOF_TIMEOUT_S)]


def test_silent_client_is_not_probed_again_and_its_proof_lapses() -> None:
    talk = proved()
    assert talk.later(RENEW_S).seen(active=False).due() == []
    assert (talk.paths.lapse(talk.later(PROOF_TIMEOUT_S - RENEW_S - 1).now), talk.path()) == ([], "direct")
    assert (talk.paths.lapse(talk.later(1).now), talk.path()) == ([TV], "masqueraded")
    assert talk.later(1000).seen(active=False).due() == []
    assert talk.later(1).seen().due() == [TV]


def test_probe_against_a_proof_withdraws_it() -> None:
    talk = proved()
    talk.later(RENEW_S).seen().due()
    assert (talk.probed("masquerade"), talk.path()) == ([Withdraw(TV)], "masqueraded")


def test_unknown_neither_proves_nor_refutes() -> None:
    talk = proved()
    talk.later(RENEW_S).seen().due()
    assert (talk.probed("unknown"), talk.path()) == ([], "direct")
    assert talk.paths.lapse(talk.later(PROOF_TIMEOUT_S).now) == [TV]


def test_unknown_backs_off_and_the_delay_is_capped() -> None:
    """2,000 of them: an exponent without a bound outgrew a float after three days without internet."""
    talk = Talk().seen()
    delays = []
    for _ in range(2000):
        assert talk.due() == [TV]
        talk.probed("unknown")
        at_s = talk.paths.next_due_s()
        assert at_s is not None
        delays.append(at_s - talk.now)
        talk.later(delays[-1]).seen()
    assert delays[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert set(delays[7:]) == {RETRY_LONGEST_S}


def test_stale_client_is_masqueraded_at_once_and_probed_later_each_time() -> None:
    talk, delays = proved(), []
    for _ in range(2000):
        assert talk.paths.went_stale([TV, PHONE], talk.now) == [TV]
        assert talk.path() == "masqueraded"
        at_s = talk.paths.next_due_s()
        assert at_s is not None
        delays.append(at_s - talk.now)
        assert talk.later(delays[-1]).seen().due() == [TV]
        talk.probed("direct")
    assert delays[:6] == [0, 20, 40, 80, 160, 300]
    assert set(delays[5:]) == {RETRY_LONGEST_S}


def test_proof_that_held_long_counts_as_the_first_to_go_stale() -> None:
    talk = proved()
    talk.paths.went_stale([TV], talk.now)
    assert talk.seen().due() == [TV]
    talk.probed("direct")
    talk.paths.went_stale([TV], talk.later(STALE_CALM_S).now)
    assert talk.due() == [TV]


def test_stale_mark_of_a_masqueraded_client_says_nothing() -> None:
    talk = Talk().seen()
    assert talk.paths.went_stale([TV], talk.now) == []
    assert talk.paths.get(TV) is not None


def test_forgotten_client_is_withdrawn() -> None:
    talk = proved()
    talk.paths.fixed(PHONE, "direct", talk.now, active=True)
    assert talk.paths.forget(talk.later(FORGET_S - 1).now) == []
    assert talk.paths.forget(talk.later(1).now) == [Withdraw(TV)]
    assert len(talk.paths) == 0
    assert talk.probed("direct") == []


def test_doubt_voids_every_proof_and_probes_everybody() -> None:
    talk = proved().seen(PHONE)
    talk.due()
    talk.probed("masquerade", PHONE)
    talk.paths.fixed(client(18), "direct", talk.now, active=True)
    assert talk.paths.doubt_all("moved", talk.later(100).now) == [Withdraw(TV)]
    assert [talk.path(c) for c in (TV, PHONE, client(18))] == ["masqueraded for now", "masqueraded for now", "direct"]
    assert talk.due() == [TV, PHONE]


def test_asking_again_probes_everybody_and_changes_nobody() -> None:
    talk = proved().seen(PHONE)
    talk.due()
    talk.paths.fixed(client(18), "direct", talk.now, active=True)
    before = [talk.path(c) for c in (TV, PHONE, client(18))]
    assert talk.paths.probe_all(talk.later(1).now) == 2
    assert [talk.path(c) for c in (TV, PHONE, client(18))] == before
    assert sorted(talk.due()) == sorted([TV, PHONE])


def test_fixed_client_is_never_probed() -> None:
    talk = Talk()
    assert talk.paths.fixed(TV, "direct", talk.now, active=True)
    assert not talk.paths.fixed(TV, "direct", talk.later(1).now, active=True)
    assert (talk.path(), talk.later(FORGET_S / 2).due(), talk.paths.next_due_s()) == ("direct", [], None)
    assert talk.paths.lapse(talk.now) == talk.paths.went_stale([TV], talk.now) == []


def test_adopted_proof_is_probed_at_once_and_lapses_when_the_kernel_lets_it() -> None:
    talk = Talk()
    talk.paths.adopted(TV, 100.0, talk.now)
    assert (talk.path(), talk.due()) == ("direct for now", [TV])
    assert talk.paths.lapse(talk.later(99).now) == []
    assert talk.paths.lapse(talk.later(1).now) == [TV]


def test_lost_probes_are_put_again() -> None:
    """A prober dies with its interface; who was being probed then must not wait for ever."""
    talk = proved().seen(PHONE)
    assert talk.due() == [PHONE]
    talk.paths.probes_lost(talk.later(1).now)
    assert (talk.due(), talk.path()) == ([PHONE], "direct")


def test_proofs_for_a_kernel_that_lost_them_last_no_longer_than_they_did() -> None:
    talk = proved()
    assert talk.paths.proofs(talk.later(100.5).now) == [Prove(TV, PROOF_TIMEOUT_S - 101)]
    assert talk.paths.proofs(talk.later(PROOF_TIMEOUT_S).now) == []


def test_evidence_goes_with_its_client() -> None:
    talk = Talk().seen()
    talk.due()
    talk.paths.probed(TV, "masquerade", "why", talk.now, b"evidence")
    assert [s.evidence for s in talk.paths] == [b"evidence"]


CLIENTS = st.integers(1, 4).map(client)


class Laws(RuleBasedStateMachine):
    """Any order of events. Beside the machine runs the kernel's set, as the commands and the clock leave it."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.paths, self.now = ReturnPaths(), 0.0
        self.kernel: dict[Client, float] = {}
        self.probed_direct_s: dict[Client, float] = {}
        self.sent_s: dict[Client, float] = {}
        self.asked_s: dict[Client, float] = {}

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Prove):
                self.kernel[command.client] = self.now + command.for_s
            else:
                self.kernel.pop(command.client, None)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0, RENEW_S, PROOF_TIMEOUT_S, FORGET_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.kernel = {c: s for c, s in self.kernel.items() if s > self.now}
        self.paths.lapse(self.now)
        lapse_s = self.paths.next_lapse_s()
        assert lapse_s is None or lapse_s > self.now, "a loop that waits for it would not wait"

    @rule(who=CLIENTS, active=st.booleans())
    def is_seen(self, who: Client, active: bool) -> None:
        if self.paths.seen(who, self.now, active=active):
            self.asked_s.pop(who, None)
        standing = self.paths.get(who)
        assert standing is not None
        if active:
            self.sent_s[who] = self.now
            assert standing.probing or standing.probe_at_s is not None, "an active client waits for ever"

    @rule(target=under_way)
    def is_probed(self) -> tuple[Client, ...]:
        due = tuple(self.paths.due(self.now))
        for who in due:
            asked_s = self.asked_s.get(who)
            assert asked_s is None or self.sent_s.get(who, -1.0) >= asked_s, "an idle client was probed again"
            self.asked_s[who] = self.now
        return due

    @rule(whom=consumes(under_way), verdict=st.sampled_from(["direct", "masquerade", "unknown"]))
    def verdict_comes(self, whom: tuple[Client, ...], verdict: Verdict) -> None:
        for who in whom:
            commands = self.paths.probed(who, verdict, verdict, self.now)
            assert verdict != "unknown" or not commands
            if Prove(who) in commands:
                self.probed_direct_s[who] = self.now
            self.perform(commands)

    @rule(whom=st.lists(CLIENTS, unique=True))
    def proofs_go_stale(self, whom: list[Client]) -> None:
        """As the kernel does it: the element first, the mark for us to find."""
        marked = [c for c in whom if self.kernel.pop(c, None)]
        self.paths.went_stale(marked, self.now)

    @rule()
    def everything_is_doubted(self) -> None:
        self.perform(self.paths.doubt_all("moved", self.now))
        assert not self.kernel
        self.asked_s.clear()

    @rule()
    def everybody_is_asked_for(self) -> None:
        self.paths.probe_all(self.now)
        self.asked_s.clear()

    @rule()
    def kernel_loses_the_table(self) -> None:
        self.kernel.clear()
        self.perform(list(self.paths.proofs(self.now)))

    @rule()
    def old_ones_are_forgotten(self) -> None:
        self.perform(self.paths.forget(self.now))

    @rule()
    def prober_breaks(self) -> None:
        lost = [s for s in self.paths if s.probing]
        self.paths.probes_lost(self.now)
        assert all(s.probe_at_s == self.now for s in lost)
        self.asked_s.clear()

    @invariant()
    def never_direct_without_a_proof_that_holds(self) -> None:
        for standing in self.paths:
            if standing.path == "direct":
                proved_s = self.probed_direct_s[standing.client]
                assert proved_s <= self.now < proved_s + PROOF_TIMEOUT_S

    @invariant()
    def kernel_never_knows_more_than_we(self) -> None:
        told = {s.client for s in self.paths if s.path == "direct"}
        assert set(self.kernel) <= told
        for who, until_s in self.kernel.items():
            assert until_s <= self.probed_direct_s[who] + PROOF_TIMEOUT_S

    @invariant()
    def delays_are_bounded(self) -> None:
        for standing in self.paths:
            if standing.probe_at_s is not None:
                assert standing.probe_at_s <= self.now + RETRY_LONGEST_S


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("verdict", ["direct", "masquerade", "unknown"])
def test_verdict_on_a_stranger_is_left_alone(verdict: Verdict) -> None:
    talk = Talk()
    assert talk.probed(verdict) == []
    assert len(talk.paths) == 0
