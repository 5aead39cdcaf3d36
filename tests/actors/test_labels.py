"""Label requirements: what can be written, what it means, what is wrong with the rest."""

from __future__ import annotations

import pytest
from foliot.actors.labels import InvalidLabelError, Requirement, count_matches, matches, parse, parse_all
from foliot.runtime.errors import UsageError
from hypothesis import given
from hypothesis import strategies as st

LABELS = {"gpu": "true", "zone": "eu-1", "mem": "16", "version": "1.50", "in": "yes"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("gpu=true", True),
        ("gpu == true", True),
        ("gpu=false", False),
        ("gpu!=true", False),
        ("gpu!=false", True),
        ("tpu!=true", True),
        ("tpu=true", False),
        ("zone in (eu-1, eu-2)", True),
        ("zone in (eu-2)", False),
        ("zone not in (eu-2,eu-3)", True),
        ("zone  not  in(eu-1)", False),
        ("tpu not in (a)", True),
        ("tpu in (a)", False),
        ("mem>=16", True),
        ("mem>=16.0", True),
        ("mem>16", False),
        ("mem > 9", True),
        ("mem<=16", True),
        ("mem<8", False),
        ("mem<100", True),
        ("mem>=-3", True),
        ("mem=16.0", True),
        ("mem in (8,16.00)", True),
        ("version=1.5", True),
        ("zone>=1", False),
        ("tpu>=1", False),
        ("gpu", True),
        ("tpu", False),
        ("!tpu", True),
        ("! gpu", False),
        (" gpu ", True),
        ("in in (yes)", True),
        ("in", True),
        ("in=yes", True),
    ],
)
def test_a_requirement_means_what_it_says(text: str, holds: bool) -> None:
    assert parse(text).holds(LABELS) is holds


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "a label name"),
        ("=true", 0, "a label name"),
        ("!", 1, "a label name after '!'"),
        ("!gpu=true", 4, "the end of the requirement"),
        ("gpu=", 4, "a value of letters, digits and _.:/+-"),
        ("gpu true", 4, "=, !=, >=, <=, >, <, 'in (...)' or 'not in (...)'"),
        ("gpu in a", 4, "=, !=, >=, <=, >, <, 'in (...)' or 'not in (...)'"),
        ("zone in ()", 9, "a value of letters, digits and _.:/+-"),
        ("zone in (a", 10, "',' or ')'"),
        ("zone in (a b)", 11, "',' or ')'"),
        ("zone in (a) x", 12, "the end of the requirement"),
        ("mem>=much", 5, "a number after >="),
        ("mem>=1e3", 5, "a number after >="),
        ("a=b=c", 3, "the end of the requirement"),
        ("a" * 3_000, 2_000, "at most 2000 characters"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place_and_what_was_expected(
    text: str, position: int, expected: str
) -> None:
    with pytest.raises(InvalidLabelError) as caught:
        parse(text)
    assert isinstance(caught.value, UsageError)
    assert (caught.value.text, caught.value.position, caught.value.expected) == (text, position, expected)
    assert str(caught.value) == (
        f"label requirement {text[:80]!r} is wrong at position {position}, expected {expected}"
    )


def test_all_requirements_must_hold_and_preferences_are_counted() -> None:
    requirements = parse_all(["gpu", "mem>=32", "zone=eu-1"])
    assert not matches(requirements, LABELS)
    assert count_matches(requirements, LABELS) == 2
    assert matches((), {})


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,10}", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9_.:/+-]{1,10}", fullmatch=True)
numbers = st.from_regex(r"[+-]?[0-9]{1,6}(\.[0-9]{1,3})?", fullmatch=True)
requirements = st.one_of(
    st.builds(Requirement, names, st.sampled_from(["exists", "absent"])),
    st.builds(Requirement, names, st.sampled_from(["=", "!="]), st.tuples(values)),
    st.builds(Requirement, names, st.sampled_from(["in", "not in"]), st.lists(values, min_size=1, max_size=4).map(tuple)),
    st.builds(Requirement, names, st.sampled_from([">=", "<=", ">", "<"]), st.tuples(numbers)),
)


@given(requirements)
def test_what_is_written_reads_back_the_same(requirement: Requirement) -> None:
    assert parse(str(requirement)) == requirement


@given(requirements, st.dictionaries(names, st.one_of(values, numbers), max_size=4))
def test_a_requirement_and_its_opposite_never_both_hold(requirement: Requirement, labels: dict[str, str]) -> None:
    opposites = {"exists": "absent", "=": "!=", "in": "not in", ">=": "<", "<=": ">"}
    for one, other in [*opposites.items(), *[(b, a) for a, b in opposites.items()]]:
        if requirement.operator == one:
            opposite = Requirement(requirement.key, other, requirement.values)  # type: ignore[arg-type]
            both = (requirement.holds(labels), opposite.holds(labels))
            if one in ("exists", "absent", "=", "!=", "in", "not in"):
                assert sorted(both) == [False, True]
            else:
                assert both != (True, True)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_place_inside_it(text: str) -> None:
    try:
        requirement = parse(text)
    except InvalidLabelError as error:
        position = error.position
    else:
        position = 0
        assert parse(str(requirement)) == requirement
    assert 0 <= position <= len(text)
