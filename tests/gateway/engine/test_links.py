"""Share links: golden pairs of what is understood and what is refused, and that no text at all upsets them."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.engine.link_parts import LONGEST_LINK
from sidegate.gateway.engine.links import upstream_of_link
from sidegate.gateway.engine.upstream import Upstream
from sidegate.problems import Problems
from tests.conftest import GOLDEN_ROOT, Golden

SECRETS = ("hunter2", "pass", "aHVudGVyMg")


def _cases(kind: str) -> list[str]:
    """The links of a file, one a line."""
    lines = (GOLDEN_ROOT / "engine" / f"{kind}.in").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def vmess(**fields: object) -> str:
    basic = {
        "v": "2",
        "ps": "東京 1",
        "add": "198.51.100.7",
        "port": "443",
        "id": "11111111-2222-4333-8444-555555555555",
    }
    return "vmess://" + b64(json.dumps({**basic, "aid": "0", "net": "tcp", "type": "none", **fields}))


def shown(link: str) -> str:
    """All that is made of a link, as text."""
    try:
        it = upstream_of_link(link, "proxy.upstream[0]")
    except Problems as error:
        return f"{error}\n"
    head = f"{it.name!r}: {it.kind} at {it.where}, UDP: {it.udp}, full cone: {it.full_cone}\n"
    return head + msgspec.json.format(msgspec.json.encode(it.outbound), indent=1).decode() + "\n"


def pairs(links: list[str]) -> str:
    return "\n".join(f"{link}\n{shown(link)}" for link in links)


def test_what_is_understood(golden: Golden) -> None:
    json_forms = [
        vmess(),
        vmess(
            net="ws", path="/w?ed=2048", host="a.example", tls="tls", sni="b.example", alpn="h2,http/1.1", fp="chrome"
        ),
        vmess(net="grpc", type="multi", path="service", port=8443, tls="tls", scy="none", aid=0),
        "ss://" + b64("aes-256-gcm:p%40ss@198.51.100.7:8388") + "#older%20form",
        "ss://" + b64("aes-256-gcm:p:a@s/s").rstrip("=") + "@[2001:db8::7]:8388/?outline=1#SIP002",
        "socks://" + b64("name:pass") + "@198.51.100.7:1080#v2rayN",
    ]
    golden("engine/links.txt", pairs(_cases("links") + json_forms))


@pytest.mark.parametrize("written", ["YctPZ6U7xPPcU+gp3u/0tw", "YctPZ6U7xPPcU-gp3u_0tw", "YctPZ6U7xPPcU+gp3u/0tw=="])
def test_keys_in_any_base64_become_those_that_xray_takes(written: str) -> None:
    """Xray refuses the whole configuration for a key without padding, or in the alphabet for URLs."""
    link = f"ss://{quote(f'2022-blake3-aes-128-gcm:{written}:{written}', safe=':')}@198.51.100.7:8388"
    settings = upstream_of_link(link, "here").outbound["settings"]
    assert settings["password"] == "YctPZ6U7xPPcU+gp3u/0tw==:YctPZ6U7xPPcU+gp3u/0tw=="  # noqa: S105 (a test's)


def test_vmess_fields_of_another_json_type_mean_what_they_say() -> None:
    plain = upstream_of_link(vmess(ps="7", tls="tls", sni="a.example", alpn="h2,http/1.1"), "")
    assert upstream_of_link(vmess(ps=7, tls="tls", sni="a.example", alpn=["h2", "http/1.1"]), "") == plain
    assert [upstream_of_link(vmess(ps=name), "").name for name in (7, 0, None)] == ["7", "0", ""]
    assert upstream_of_link(vmess(tls="tls", alpn=[]), "") == upstream_of_link(vmess(tls="tls"), "")


@pytest.mark.parametrize("transport", ["grpc", "gun", "xhttp", "ws"])
def test_panels_write_none_for_whatever_type_a_vmess_link_has(transport: str) -> None:
    found, wanted = (
        upstream_of_link(vmess(net=transport, type=kind, path="a", add=" a.example "), "") for kind in ("none", "")
    )
    assert found == wanted


def test_a_link_copied_from_the_source_of_a_page_keeps_its_tls() -> None:
    link = "vless://11111111-2222-4333-8444-555555555555@a.example:443?type=ws&security=tls&path=%2Fw#x"
    assert upstream_of_link(link.replace("&", "&amp;"), "here") == upstream_of_link(link, "here")


@pytest.mark.parametrize("scheme", ["hysteria2", "hy2", "tuic", "anytls", "ssr"])
def test_kinds_of_links_for_other_programs_are_named(scheme: str) -> None:
    with pytest.raises(Problems) as refused:
        upstream_of_link(f"{scheme}://hunter2@a.example:443?sni=a.example#x", "here")
    assert "is not spoken by the engine here" in str(refused.value)
    assert 'proxy.engine = "tproxy"' in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_what_is_refused(golden: Golden) -> None:
    json_forms = [
        vmess(aid="64"),
        vmess(add="not a host"),
        vmess(port="0"),
        vmess(net="h2"),
        vmess(net="kcp", path="hunter2"),
        vmess(scy="rot13"),
        vmess(tls="tls", insecure="1"),
        "vmess://" + b64("[1, 2]"),
        "ss://" + b64("aes-256-gcm:hunter2"),
        "ss://" + b64("rc4-md5:hunter2") + "@198.51.100.7:8388",
        "ss://" + base64.b64encode(b"\xff\xfe\x00").decode() + "@198.51.100.7:8388",
    ]
    text = pairs(_cases("bad-links") + json_forms)
    golden("engine/bad-links.txt", text)
    messages = "".join(shown(link) for link in _cases("bad-links") + json_forms)
    assert not [secret for secret in SECRETS if secret in messages.replace("password", "").replace("passes", "")]


FIELDS = [
    "add",
    "port",
    "id",
    "aid",
    "scy",
    "net",
    "type",
    "host",
    "path",
    "tls",
    "sni",
    "alpn",
    "fp",
    "ps",
    "insecure",
]
SCHEMES = st.sampled_from(["socks5", "http", "https", "ss", "vmess", "vless", "trojan", "wireguard", "wg", "socks", ""])
BITS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "@",
                ":",
                "#",
                "?",
                "&",
                "=",
                "/",
                "[",
                "]",
                "%",
                "%ff",
                "%00",
                "::1",
                "127.0.0.1",
                "a.example",
                ":443",
                "1",
            ]
        ),
        st.sampled_from(
            ["type=ws", "security=tls", "security=reality", "pbk=", "flow=xtls-rprx-vision", "fm={", "extra={}"]
        ),
        st.sampled_from([b64("aes-128-gcm:x"), b64("aes-128-gcm:x@a.example:1"), b64('{"add":"a","port":1,"id":"x"}')]),
        st.text(max_size=8),
    ),
    max_size=12,
)


@given(SCHEMES, BITS)
def test_no_text_raises_anything_but_problems(scheme: str, bits: list[str]) -> None:
    _survives(f"{scheme}://{''.join(bits)}")


@given(st.text())
def test_arbitrary_text(text: str) -> None:
    _survives(text)


@given(st.dictionaries(st.sampled_from(FIELDS), st.none() | st.text()))
def test_arbitrary_vmess_json(fields: dict[str, object]) -> None:
    _survives(vmess(**fields))


def _survives(link: str) -> None:
    """Either it is an upstream that can be written down, or Problems are raised: anything else fails the test."""
    with suppress(Problems):
        it = upstream_of_link(link, "here")
        assert 1 <= it.port <= 65535
        assert msgspec.json.decode(msgspec.json.encode(it.outbound)) == it.outbound


def test_a_long_link_is_not_even_looked_at() -> None:
    with pytest.raises(Problems, match="longer than"):
        upstream_of_link("ss://" + "A" * LONGEST_LINK, "here")


NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,10}[a-z0-9])?){1,3}", fullmatch=True)
HOSTS = st.one_of(NAMES.filter(lambda n: "xn--" not in n), st.ip_addresses().map(str))
WORDS = st.text(st.characters(codec="utf-8", min_codepoint=1), min_size=1, max_size=30)


@given(HOSTS, st.integers(1, 65535), WORDS, WORDS, st.sampled_from(["socks5", "http"]))
def test_what_was_written_is_read_again(host: str, port: int, name: str, password: str, scheme: str) -> None:
    at = f"[{host}]" if ":" in host else host
    link = f"{scheme}://{quote(name, safe='')}:{quote(password, safe='')}@{at}:{port}#{quote(name, safe='')}"
    it = upstream_of_link(link, "here")
    assert it.outbound["settings"] == {"address": host, "port": port, "user": name, "pass": password}
    assert (it.name, it.host, it.port) == (name, host, port)


@given(HOSTS, st.integers(1, 65535), WORDS, st.booleans())
def test_shadowsocks_in_each_form(host: str, port: int, password: str, in_base64: bool) -> None:
    at = f"[{host}]" if ":" in host else host
    user = f"aes-128-gcm:{password}"
    written = base64.urlsafe_b64encode(user.encode()).decode().rstrip("=") if in_base64 else quote(user, safe="")
    it = upstream_of_link(f"ss://{written}@{at}:{port}", "here")
    assert it.outbound["settings"] == {"address": host, "port": port, "method": "aes-128-gcm", "password": password}


def test_an_upstream_shows_no_secrets() -> None:
    it = upstream_of_link("trojan://hunter2@a.example:443", "here")
    assert repr(it) == "Upstream('', trojan, a.example:443)"
    assert "hunter2" not in repr([it])
    assert isinstance(it, Upstream)
