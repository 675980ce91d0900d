"""How long both connections of a flow are kept while nothing is said. What else the relay does: tests/kernel."""

from __future__ import annotations

import socket

from sidegate.gateway.engine.idle import IDLE_S
from sidegate.gateway.engine.relay import HALF_CLOSED_S, Flow


def test_a_connection_of_which_one_side_has_said_all_is_kept_less_long() -> None:
    with socket.socket() as client, socket.socket() as server:
        flow = Flow(client, server, 100.0)
        assert not flow.is_idle(100.0 + IDLE_S - 1)
        assert flow.is_idle(100.0 + IDLE_S)
        flow.down.is_over = True
        assert not flow.is_idle(100.0 + HALF_CLOSED_S - 1)
        assert flow.is_idle(100.0 + HALF_CLOSED_S)
        assert not flow.is_over
        flow.up.is_over = True
        assert flow.is_over
