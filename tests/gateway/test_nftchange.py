"""From one ruleset to another; tests/kernel/test_steer_apply.py asks the kernel whether it comes to the same."""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.gateway.ruleset.nftchange import MOST_AT_ONCE, differences, fresh, transactions

HEAD = "add table inet sidegate\ndelete table inet sidegate\ntable inet sidegate {\n"


def numbers(name: str, elements: Iterable[int]) -> str:
    listed = ", ".join(map(str, elements))
    return f"\tset {name} {{\n\t\ttype mark\n\t\telements = {{ {listed} }}\n\t}}\n"


def dynamic(name: str, timeout: str = "1m") -> str:
    return f"\tset {name} {{\n\t\ttype mark\n\t\ttimeout {timeout}\n\t}}\n"


def chain(name: str, *rules: str) -> str:
    return f"\tchain {name} {{\n" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n"


def table(*blocks: str) -> str:
    return HEAD + "\n".join(blocks) + "}\n"


LARGE = numbers("large", range(MOST_AT_ONCE + 10))


def test_what_stays_is_not_told_of_but_for_rules() -> None:
    old = table(LARGE, dynamic("learned"), chain("c", "mark @large drop"))
    new = table(LARGE, dynamic("learned"), chain("c", "mark @large accept"))
    (told,) = transactions(old, new)
    assert told == "flush table inet sidegate\ntable inet sidegate {\n" + chain("c", "mark @large accept") + "}\n"
    assert differences(old, new) == ["chain c"]


def test_large_set_is_filled_before_it_counts() -> None:
    told = transactions(table(chain("c")), table(LARGE, chain("c", "mark @large drop")))
    assert [t.splitlines()[0][:40] for t in told] == [
        "table inet sidegate {",
        "add element inet sidegate large { 0, 1, ",
        f"add element inet sidegate large {{ {MOST_AT_ONCE}, "[:40],
        "flush table inet sidegate",
    ]
    assert "elements" not in told[0] + told[-1]


def intervals(name: str, *elements: str) -> str:
    return f"\tset {name} {{\n\t\ttype mark\n\t\tflags interval\n\t\telements = {{ {', '.join(elements)} }}\n\t}}\n"


def test_sets_of_intervals_are_filled_before_anybody_asks_them() -> None:
    old = table(intervals("stays", "1-2"), chain("c"))
    new = table(intervals("stays", "1-2"), intervals("one", "3-4"), LARGE, intervals("two", "5-6"), chain("c", "drop"))
    first, *filling, last = transactions(old, new)
    emptied = "\tset large {\n\t\ttype mark\n\t}\n"
    assert first == f"table inet sidegate {{\n{intervals('one', '3-4')}{emptied}{intervals('two', '5-6')}}}\n"
    assert [t.split("{")[0] for t in filling] == ["add element inet sidegate large "] * 2
    assert last == "flush table inet sidegate\ntable inet sidegate {\n" + chain("c", "drop") + "}\n"


def test_large_set_of_a_new_table_is_filled_after_it() -> None:
    told = fresh(table(LARGE, numbers("small", [1, 2]), chain("c")))
    assert told[0] == table("\tset large {\n\t\ttype mark\n\t}\n", numbers("small", [1, 2]), chain("c"))
    elements = "".join(t.partition("{")[2].rpartition("}")[0] + "," for t in told[1:])
    assert [int(e) for e in elements.split(",") if e.strip()] == list(range(MOST_AT_ONCE + 10))


def test_small_set_with_other_elements_is_filled_anew() -> None:
    (told,) = transactions(table(numbers("small", [1])), table(numbers("small", [2])))
    assert told.splitlines()[:2] == ["flush table inet sidegate", "flush set inet sidegate small"]


def test_set_that_is_defined_otherwise_is_made_anew_and_what_is_gone_goes() -> None:
    old = table(dynamic("learned"), dynamic("old"), chain("c"), chain("d"))
    (told,) = transactions(old, table(dynamic("learned", "2m"), chain("c")))
    assert told.splitlines()[:4] == [
        "flush table inet sidegate",
        "delete chain inet sidegate d",
        "delete set inet sidegate learned",
        "delete set inet sidegate old",
    ]
    assert dynamic("learned", "2m") in told


def test_unknown_old_one_is_replaced_as_a_whole() -> None:
    new = table(dynamic("learned"), chain("c"))
    assert transactions("table inet sidegate { }", new) == [new]
