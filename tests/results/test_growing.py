"""Mappings and sequences that are extended: each version stays what it was."""

import pickle
import random

import pytest

from results.growing import FEWEST_NEW, GrowingMapping, GrowingSequence


def test_a_mapping_is_a_dict_of_what_was_added_and_removed() -> None:
    draw, versions = random.Random(1), [(GrowingMapping[int, int](), dict[int, int]())]
    for number in range(40 * FEWEST_NEW):
        mapping, plain = versions[-1]
        key = draw.randrange(500)
        if key in plain and draw.random() < 0.3:
            versions.append((mapping.without(key), {name: value for name, value in plain.items() if name != key}))
        else:
            versions.append((mapping.with_entry(key, number), {**plain, key: number}))
    for mapping, plain in versions[:: len(versions) // 50]:
        assert mapping == plain and len(mapping) == len(plain) and mapping.get(501, 7) == 7
        assert all((key in mapping) == (key in plain) for key in range(500))
    with pytest.raises(KeyError):
        versions[0][0][0]


def test_a_mapping_keeps_the_order_in_which_keys_came() -> None:
    mapping = GrowingMapping[str, int]()
    names = [f"idea-{number}" for number in range(3 * FEWEST_NEW)]
    for name in (*names, names[5]):
        mapping = mapping.with_entry(name, len(name))
    assert list(mapping) == names and list(pickle.loads(pickle.dumps(mapping)).items()) == list(mapping.items())


def test_two_sequences_that_grow_from_one_do_not_share_what_follows() -> None:
    first = GrowingSequence([1, 2])
    second, third = first.with_item(3), first.with_item(4)
    assert (list(first), list(second), list(third)) == ([1, 2], [1, 2, 3], [1, 2, 4])
    assert second.with_item(5)[-2:] == [3, 5] and first.begins(second) and not first.begins(third)
