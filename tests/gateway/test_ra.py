"""What advertises this box by IPv6, as a golden file; what is withdrawn; our resolver without the engine."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from sidegate.gateway.box.journal import ChildStep, Journal, boot_id, save
from sidegate.gateway.config import parse_config
from sidegate.gateway.desired import Advertiser
from sidegate.gateway.dhcp.advert import NAME, advertiser_child, end_advertiser, withdraw
from sidegate.gateway.dhcp.terms import advertiser
from sidegate.gateway.dns.standby import past_engine
from tests.conftest import Golden
from tests.gateway.test_decide import facts

AT = Path("/run/sidegate/advertising")


def conf(tells_dns: bool) -> str:
    return advertiser_child(Advertiser("eth0", tells_dns), AT, "dnsmasq").files[0].text


def test_configuration(golden: Golden) -> None:
    golden("gateway/dnsmasq/advertiser.conf", conf(tells_dns=True))
    assert "dns-server" not in conf(tells_dns=False)


@pytest.mark.skipif(not shutil.which("dnsmasq", path="/usr/sbin:/usr/bin"), reason="dnsmasq is not installed")
def test_dnsmasq_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text(conf(tells_dns=True))
    command = ["/usr/sbin/dnsmasq", "--test", f"--conf-file={path}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ('[ipv6]\nmode = "router"', None),
        ('[ipv6]\nmode = "gateway"', Advertiser("eth0", False)),
        ('[ipv6]\nmode = "gateway"\n[dns]\nmode = "on"', Advertiser("eth0", True)),
        ('[ipv6]\nmode = "gateway"\n[proxy]\nupstream = "socks5://192.0.2.1:1080"', Advertiser("eth0", True)),
        (
            '[ipv6]\nmode = "gateway"\n[dns]\nmode = "off"\n[proxy]\nupstream = "socks5://192.0.2.1:1080"',
            Advertiser("eth0", False),
        ),
    ],
)
def test_only_a_gateway_is_advertised(text: str, expected: Advertiser | None) -> None:
    assert advertiser(parse_config(text, "config"), facts()) == expected


def test_interface_that_is_gone_is_nothing_to_withdraw_from() -> None:
    assert not withdraw("no-such-one")


def test_ending_what_never_ran(tmp_path: Path) -> None:
    assert not end_advertiser(tmp_path)
    step = ChildStep(NAME, str(tmp_path / "run"), (str(tmp_path / "run" / "advertiser.conf"),))
    save(Journal(boot_id(), children=(step,)), tmp_path)
    assert not end_advertiser(tmp_path)


def test_resolver_asks_nobody_behind_the_engine() -> None:
    before = (
        "port=53\nserver=127.0.0.1#5300\nserver=192.168.1.1\nserver=/a.example/b.example/127.0.0.1#5300\n"
        "server=/c.example/127.0.0.1#0\nnftset=/a.example/4#inet#sidegate#names0_4\nrev-server=10.0.0.0/8,10.0.0.1\n"
    )
    after = past_engine(before, IPv4Address("192.168.1.1"))
    assert "127.0.0.1" not in after
    assert "nftset" not in after
    assert "server=/a.example/b.example/192.168.1.1\n" in after
    assert "rev-server=10.0.0.0/8,10.0.0.1\n" in after
