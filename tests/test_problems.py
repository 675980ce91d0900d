"""What a person reads when something is wrong."""

from __future__ import annotations

import errno

import pytest

from sidegate.problems import Exit, Problem, Problems, in_file, unreadable


def test_a_problem_says_where_what_and_what_to_do_next() -> None:
    assert str(Problem("eth0", "it is down")) == "eth0: it is down"
    assert str(Problem("eth0", "it is down", "ip link set eth0 up")) == "eth0: it is down\n    ip link set eth0 up"


def test_problems_are_told_together_and_in_order() -> None:
    problems = Problems(Problem("b", "second"), Problem("a", "first", "mend it"))
    assert str(problems) == "b: second\na: first\n    mend it"
    assert [p.where for p in problems.problems] == ["b", "a"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([Exit.USAGE], 2),
        ([Exit.FAULT], 1),
        ([Exit.USAGE, Exit.MISSING, Exit.FAULT], 3),
        ([Exit.FAULT, Exit.USAGE], 2),
    ],
)
def test_the_exit_code_is_the_highest(codes: list[Exit], expected: int) -> None:
    problems = Problems(*(Problem("here", "wrong", exit_code=code) for code in codes))
    assert problems.exit_code == expected


def test_a_problem_is_one_of_usage_unless_it_says_otherwise() -> None:
    assert Problem("here", "wrong").exit_code is Exit.USAGE


def test_no_problems_is_no_problem() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Problems()


def test_settings_are_told_in_their_file_and_other_files_by_their_own_names() -> None:
    with pytest.raises(Problems) as caught, in_file("x.toml"):
        raise Problems(Problem("proxy.upstream", "no link", "mend it"), Problem("/lists/a:3", "no name"))
    assert str(caught.value) == "x.toml: proxy.upstream: no link\n    mend it\n/lists/a:3: no name"
    with pytest.raises(Problems) as caught, in_file(""):
        raise Problems(Problem("proxy.upstream", "no link"))
    assert str(caught.value) == "proxy.upstream: no link"


def test_a_file_that_only_root_may_read_is_a_lack_of_privilege() -> None:
    mine = unreadable("/a", FileNotFoundError(errno.ENOENT, "No such file or directory"), "make it")
    assert mine == Problem("/a", "cannot be read: No such file or directory", "make it")
    roots = unreadable("/a", PermissionError(errno.EACCES, "Permission denied"), "make it")
    assert (roots.remedy, roots.exit_code) == ("run it as root, with sudo", Exit.MISSING)
