"""Messages about bad input: how several problems become one error."""

import pickle

import pytest

from misc.errors import Problems, UserError, counted, raise_problems


def lines_of(problems):
    with pytest.raises(UserError) as raised:
        problems.raise_all()
    return str(raised.value).splitlines()


def test_a_single_problem_is_one_line_and_none_is_no_error():
    raise_problems("mask", [])
    with pytest.raises(UserError, match="^a.png: broken$"):
        raise_problems("mask", ["a.png: broken"])


@pytest.mark.parametrize("count", [20, 21, 37])
def test_twenty_of_a_kind_are_shown_and_all_are_counted_once(count):
    problems = Problems()
    problems.add("mask", [f"mask {n % count}" for n in range(2 * count)])
    problems.add("map in here", ["map", "mask 3"])
    expected = [f"mask {n}" for n in range(20)]
    if count > 20:
        expected.append(f"... and {count - 20} more of this kind (mask)")
    total = f"{count + 1} problems: {count} masks, 1 map in here"
    assert lines_of(problems) == [*expected, "map", total]


def test_errors_are_collected_with_their_kinds():
    """Also those beyond the ones that an error shows, and after a way through a pipe."""
    problems = Problems()
    with pytest.raises(UserError) as raised:
        raise_problems("label", [f"label {n}" for n in range(30)])
    problems.add_error("other", pickle.loads(pickle.dumps(raised.value)))
    problems.add_error("other", UserError("a list"))
    assert lines_of(problems)[-2:] == ["a list", "31 problems: 30 labels, 1 other"]


def test_things_are_counted_in_words():
    assert counted({"image": 2, "checkpoint": 1, "class": 5}) == "2 images, 1 checkpoint, 5 classes"
    assert counted({"label map in a in b": 3}) == "3 label maps in a in b"
    assert counted({"class": 1, "entry": 0, "box": 2}) == "1 class, 0 entries, 2 boxes"
    assert counted({"image without a label": 3}) == "3 images without labels"
    assert counted({"image without a label": 1}) == "1 image without a label"
    assert counted({"map in /a without a b": 2}) == "2 maps in /a without a b"
