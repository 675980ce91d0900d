"""Connection tracking and NAT of one machine, packet by packet."""

from __future__ import annotations

import pytest

from sidegate.walk.conntrack import Conntrack, Forward, Nat, Rules, Tracking, inverted, tuple_of
from sidegate.walk.data import ANY_PORT, Decision, Packet
from sidegate.walk.windows import TCP_NEXT

CLIENT, SERVER, PUBLIC = "192.168.1.123", "1.2.3.4", "123.100.101.102"
ADDRESSES = {"wan": PUBLIC, "br-lan": "192.168.1.1"}


def segment(kind: str, src: str = CLIENT, dst: str = SERVER, sport: int = 4321, dport: int = 80) -> Packet:
    return Packet("", "", src, dst, "tcp", sport, dport, 64, kind)


def answer(kind: str, to: str = CLIENT) -> Packet:
    return segment(kind, SERVER, to, 80, 4321)


class Router:
    """A box with one ruleset; `crossed` is what becomes of a packet from one interface to another."""

    def __init__(self, rules: Rules) -> None:
        self.conntrack = Conntrack()
        self.nat = Nat(self.conntrack, rules, ADDRESSES, frozenset({CLIENT, "192.168.1.1"}))
        self.notes: list[Decision] = []

    def crossed(self, packet: Packet, came: str, leaves: str) -> Packet | None:
        tracking = self.conntrack.track(packet, self.notes)
        changed = self.nat.pass_hook("prerouting", tracking, packet, (came, ""), self.notes)
        changed = changed and self.nat.pass_hook("postrouting", tracking, changed, (came, leaves), self.notes)
        if changed:
            self.conntrack.confirm(tracking)
        return changed

    @property
    def laws(self) -> list[str]:
        return [note.law for note in self.notes]


MASQUERADE = Rules(masquerade="wan")
SNAT = Rules(snat=("wan", PUBLIC))


def info(conntrack: Conntrack, packet: Packet) -> str:
    tracking: Tracking = conntrack.track(packet, [])
    conntrack.confirm(tracking)
    return tracking.info


def test_a_handshake_in_both_directions() -> None:
    table = Conntrack()
    kinds = [segment("SYN"), answer("SYN ACK"), segment("ACK"), segment("PSH ACK"), answer("ACK")]
    assert [info(table, packet) for packet in kinds] == ["new", "reply", "established", "established", "reply"]
    [entry] = table.listing("router")
    assert (entry.state, entry.replied, entry.assured) == ("ESTABLISHED", True, True)


def test_one_direction_alone_is_invalid_from_the_ack_on() -> None:
    table = Conntrack()
    assert [info(table, segment(kind)) for kind in ("SYN", "ACK", "PSH ACK")] == ["new", "invalid", "invalid"]


def test_a_segment_without_an_entry_is_picked_up_but_an_answer_is_not() -> None:
    assert info(Conntrack(), segment("PSH ACK")) == "new"
    assert info(Conntrack(), answer("SYN ACK")) == "invalid"
    assert info(Conntrack(), answer("RST")) == "invalid"


def test_a_rst_as_the_only_answer_deletes_the_entry() -> None:
    table = Conntrack()
    assert [info(table, segment("SYN")), info(table, answer("RST ACK"))] == ["new", "reply"]
    assert table.listing("router") == ()


def test_an_entry_whose_packet_was_dropped_never_existed() -> None:
    table = Conntrack()
    table.track(segment("SYN"), [])
    assert table.listing("router") == ()


def test_bridged_first_the_routed_packet_is_not_translated() -> None:
    router = Router(MASQUERADE)
    assert router.crossed(segment("SYN"), "br-lan", "br-lan") == segment("SYN")
    assert router.crossed(segment("SYN"), "br-lan", "wan") == segment("SYN")
    assert router.laws.count("nat-null") == 2


def test_routed_only_it_is_translated_and_so_is_the_answer() -> None:
    router = Router(MASQUERADE)
    assert router.crossed(segment("SYN"), "br-lan", "wan") == segment("SYN", PUBLIC)
    assert router.crossed(answer("SYN ACK", PUBLIC), "wan", "br-lan") == answer("SYN ACK")


def test_masquerade_binds_to_its_interface_and_snat_does_not() -> None:
    for rules, bridged in ((MASQUERADE, None), (SNAT, segment("SYN", PUBLIC))):
        router = Router(rules)
        router.crossed(segment("SYN"), "br-lan", "wan")
        assert router.crossed(segment("SYN"), "br-lan", "br-lan") == bridged
        assert len(router.conntrack.listing("router")) == (1 if bridged else 0)


def test_a_forwarded_ports_answer_is_translated_back_on_the_bridge() -> None:
    router = Router(Rules(inward=(Forward("wan", "tcp", 8080, (CLIENT, 80)),), masquerade="wan"))
    arrived = router.crossed(segment("SYN", SERVER, PUBLIC, 4321, 8080), "wan", "br-lan")
    assert arrived == segment("SYN", SERVER, CLIENT, 4321, 80)
    back = router.crossed(segment("SYN ACK", CLIENT, SERVER, 80, 4321), "br-lan", "br-lan")
    assert back == segment("SYN ACK", PUBLIC, SERVER, 8080, 4321)


def test_a_taken_port_is_replaced_by_an_unknown_one() -> None:
    router = Router(MASQUERADE)
    router.crossed(segment("SYN"), "br-lan", "wan")
    second = router.crossed(segment("SYN", "192.168.1.124"), "br-lan", "wan")
    assert second == segment("SYN", PUBLIC, sport=ANY_PORT)


def test_an_error_comes_back_to_whom_it_concerns() -> None:
    router = Router(MASQUERADE)
    sent = router.crossed(segment("SYN"), "br-lan", "wan")
    error = Packet("", "", "9.9.9.9", PUBLIC, "icmp", 0, 0, 60, "time exceeded", sent)
    back = router.crossed(error, "wan", "br-lan")
    assert back is not None
    assert (back.dst, back.inner) == (CLIENT, segment("SYN"))


def test_an_error_about_no_connection_is_invalid() -> None:
    error = Packet("", "", "9.9.9.9", PUBLIC, "icmp", 0, 0, 60, "time exceeded", segment("SYN", PUBLIC))
    assert info(Conntrack(), error) == "invalid"


@pytest.mark.parametrize("kind", ["echo request", "echo reply"])
def test_an_echo_keeps_its_id_when_inverted(kind: str) -> None:
    it = tuple_of(Packet("", "", CLIENT, SERVER, "icmp", 77, 0, 64, kind))
    assert inverted(inverted(it)) == it
    assert inverted(it)[2] == 77


def test_the_tcp_table_is_whole() -> None:
    assert len(TCP_NEXT) == 2 * 5 * 10


def test_a_syn_after_a_rst_of_the_same_side_begins_anew_and_another_is_ignored() -> None:
    def after(*packets: Packet) -> list[tuple[str, bool]]:
        table = Conntrack()
        for packet in packets:
            info(table, packet)
        return [(entry.state, entry.replied) for entry in table.listing("router")]

    opened = (segment("SYN"), answer("SYN ACK"))
    assert after(*opened, segment("RST"), segment("SYN")) == [("SYN_SENT", False)]
    assert after(*opened, answer("RST"), segment("SYN")) == [("CLOSE", True)]


def test_an_answer_to_an_ignored_syn_is_believed() -> None:
    table = Conntrack()
    for packet in (segment("ACK"), segment("SYN"), answer("SYN ACK")):
        info(table, packet)
    assert [entry.state for entry in table.listing("router")] == ["SYN_RECV"]
