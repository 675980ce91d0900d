"""How a proof is used and watched, as chains: laws 4 to 8 of `nft.py`. Pure.

Of TCP `proved`, `opening`, `repeated` and `remember` see SYNs alone, `answered` and `doubt` what is none (`underway`).
"""

from __future__ import annotations

from sidegate.gateway.ruleset.nfttext import CLIENT, COUNTED, FLOW, HAS_ACK, TUPLE, block

CHAINS = [
    block(
        "chain",
        "remember",
        [
            f"meta l4proto tcp delete @begun4 {{ {TUPLE} }} delete @pending4 {{ {TUPLE} }}",
            f"update @masqueraded4 {{ {FLOW} }}",
        ],
    ),
    block(
        "chain",
        "withdrawal",
        [
            f"delete @direct4 {{ {CLIENT} }}",
            f"delete @doubted4 {{ {CLIENT} }}",
            f"update @stale4 {{ {CLIENT} }}",
        ],
    ),
    block(
        "chain",
        "doubt",
        [
            f"delete @retried4 {{ {TUPLE} }}",
            f"{CLIENT} @doubted4 goto withdrawal",
            f"update @doubted4 {{ {CLIENT} }}",
        ],
    ),
    block(
        "chain",
        "answered",
        [
            f"{HAS_ACK} delete @pending4 {{ {TUPLE} }} delete @doubted4 {{ {CLIENT} }} update @answered4 {{ {CLIENT} }}"
            f" update @begun4 {{ {TUPLE} }} notrack",
            COUNTED,
        ],
    ),
    block(
        "chain",
        "proved",
        ["meta l4proto tcp goto opening", "meta l4proto udp goto proved_udp", "icmp type echo-request notrack"],
    ),
    block(
        "chain",
        "proved_udp",
        ["udp dport 53 return", f"{FLOW} @masqueraded4 goto remember", "goto untracked_udp"],
    ),
    block("chain", "untracked_udp", [f"update @datagrams4 {{ {FLOW} }}", "notrack"]),
    block(
        "chain",
        "opening",
        [
            f"{FLOW} @masqueraded4 goto remember",
            f"{TUPLE} @pending4 goto repeated",
            f"update @pending4 {{ {TUPLE} }} delete @begun4 {{ {TUPLE} }} notrack",
        ],
    ),
    block(
        "chain",
        "repeated",
        [
            f"{CLIENT} @answered4 update @pending4 {{ {TUPLE} }} notrack return",
            f"update @retried4 {{ {TUPLE} }}",
            "goto remember",
        ],
    ),
]
