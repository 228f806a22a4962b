import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacs.data import parse_split
from bacs.errors import RequestError

DIGITS = tuple("0123456789")
ANIMALS = ("cat", "dog", "bird", "fish", "mouse")
VOC = tuple(f"class_{chr(97 + i)}" for i in range(20))


def problem(split, names=DIGITS):
    with pytest.raises(RequestError) as caught:
        parse_split(split, names)
    assert all(fault.where.startswith("training.split") for fault in caught.value.faults)
    return caught.value.faults


def test_pair_gives_chunks_in_order():
    split = parse_split("4-3", DIGITS)
    assert split.steps == ((1, 2, 3, 4), (5, 6, 7), (8, 9, 10))
    assert split.name == "4-3"
    assert split.heads == (4, 3, 3)
    assert split.n_steps == 3
    assert split.class_order == tuple(range(1, 11))
    assert [split.classes_seen(t) for t in range(3)] == [5, 8, 11]
    assert [split.old_classes(t) for t in range(3)] == [0, 5, 8]
    assert split.step_of_class().tolist() == [-1, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "n_steps"),
    [("19-1", 2), ("15-5", 2), ("15-1", 6), ("10-1", 11), ("10-10", 2), ("5-3", 6), ("10-5", 3)],
)
def test_published_voc_splits(name, n_steps):
    assert parse_split(name, VOC).n_steps == n_steps


def test_name_is_canonical():
    assert parse_split(" 02 - 2 ", DIGITS).name == "2-2"
    assert parse_split([["cat", 2], ["bird"], [4, "mouse"]], ANIMALS).name == "[[cat,2],[bird],[4,mouse]]"


def test_joint_is_one_step():
    joint = parse_split("joint", DIGITS)
    assert joint.steps == (tuple(range(1, 11)),)
    assert joint == parse_split("2-2", DIGITS).joint()
    shuffled = parse_split("2-2", DIGITS, shuffle=True, seed=3)
    assert shuffled.joint().class_order == shuffled.class_order
    assert joint.step_of_class().tolist() == [-1] + [0] * 10


def test_lists_of_names_and_ids():
    assert parse_split([[0, 1], ["3", 2, 9], [4, 5, 6, 7, 8]], DIGITS).steps == (
        (1, 2),
        (4, 3, 10),
        (5, 6, 7, 8, 9),
    )
    assert parse_split([["dog", 1], [3, 4, "mouse"]], ANIMALS).steps == ((2, 1), (3, 4, 5))
    text = parse_split("[[0,1], [2,3,4,5,6,7,8,9]]", DIGITS)
    assert text == parse_split([[0, 1], list(range(2, 10))], DIGITS)
    assert parse_split("[['cat', dog],[\"bird\",4,5]]", ANIMALS).steps == ((1, 2), (3, 4, 5))


def test_uneven_steps():
    split = parse_split([[5], [0, 1, 2, 3, 4], [6, 7, 8, 9]], DIGITS)
    assert split.heads == (1, 5, 4)
    assert split.step_of_class().tolist() == [-1, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]


def test_shuffle_is_seeded_and_keeps_sizes():
    first, again, other = (parse_split("4-3", DIGITS, shuffle=True, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.class_order != other.class_order
    assert first.heads == (4, 3, 3)
    assert first.name == "4-3"
    assert sorted(first.class_order) == list(range(1, 11))
    assert all(isinstance(class_id, int) for class_id in first.class_order)


def test_indivisible_pair_lists_the_legal_ones():
    (fault,) = problem("3-2")
    assert "'3-2'" in fault.problem
    assert "the 7 classes left of 10 after the first 3 must be divisible by 2" in fault.problem
    assert "with X=3: 3-1, 3-7" in fault.remedy
    assert "with Y=2: 2-2, 4-2, 6-2, 8-2" in fault.remedy
    assert "joint" in fault.remedy


@given(n=st.integers(2, 60), first=st.integers(0, 70), increment=st.integers(0, 70))
def test_pairs_divide_or_are_refused_with_splits_that_divide(n, first, increment):
    names = tuple(f"c{i}x" for i in range(n))
    legal = 1 <= first < n and increment >= 1 and (n - first) % increment == 0
    if legal:
        split = parse_split(f"{first}-{increment}", names)
        assert split.heads == (first, *[increment] * ((n - first) // increment))
        assert split.class_order == tuple(range(1, n + 1))
        return
    (fault,) = problem(f"{first}-{increment}", names)
    for offered in fault.remedy.partition(" classes: ")[2].replace(";", ",").split(","):
        word = offered.split()[-1]
        if "-" in word:
            parse_split(word, names)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10-1", "X (10) must be less than the number of classes (10)"),
        ("0-2", "both numbers of X-Y must be at least 1"),
        ("2-0", "both numbers of X-Y must be at least 1"),
        ("2--2", "neither X-Y, nor 'joint', nor a list"),
        ("two", "neither X-Y, nor 'joint', nor a list"),
        ("", "neither X-Y, nor 'joint', nor a list"),
        ("[[0,1],[2]", "one list of classes per step"),
        ("[0,1,2]", "one list of classes per step"),
        ([0, 1, 2], "one list of classes per step"),
        ([], "one list of classes per step"),
        (7, "one list of classes per step"),
    ],
)
def test_malformed_splits(text, rule):
    (fault,) = problem(text)
    assert rule in fault.problem
    assert repr(text) in fault.problem
    assert fault.remedy


def test_lists_name_all_their_faults():
    faults = problem([["cat", "cat"], [], ["brid", 9], ["dog", True]], ANIMALS)
    by_place = {(fault.where, fault.problem): fault.remedy for fault in faults}
    assert ("training.split[1]", "is empty, but a step needs at least one class") in by_place
    unknown = "which is not a class of the dataset"
    assert by_place["training.split[2]", f"names 'brid', {unknown}"] == "did you mean bird?"
    assert "an id in 1..5" in by_place["training.split[2]", f"names 9, {unknown}"]
    assert ("training.split[3]", f"names True, {unknown}") in by_place
    assert ("training.split", "names more than once: cat") in by_place
    assert ("training.split", "leaves out: bird, fish, mouse") in by_place


def test_a_number_is_no_id_where_names_are_numbers():
    faults = problem([[10], list(range(10))])
    assert faults[0].problem == "names 10, which is not a class of the dataset"
    assert faults[0].remedy == "the classes are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_name_and_id_of_one_class_count_as_twice():
    assert problem([["cat", 1], [2, 3, 4, 5]], ANIMALS)[0].problem == "names more than once: cat"


def test_step_out_of_range():
    with pytest.raises(IndexError, match=r"step \(5\) must be in 0..4"):
        parse_split("2-2", DIGITS).classes_seen(5)


@given(st.data())
def test_step_of_class_agrees_with_steps(data):
    cuts = sorted(data.draw(st.sets(st.integers(1, 9))))
    parts = np.split(np.array(data.draw(st.permutations(range(10)))), cuts)
    split = parse_split([part.tolist() for part in parts], DIGITS)
    step_of_class = split.step_of_class()
    assert len(step_of_class) == split.classes_seen(split.n_steps - 1) == 11
    for label, class_id in enumerate(split.class_order, 1):
        assert class_id in split.steps[step_of_class[label]]
