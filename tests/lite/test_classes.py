"""Which class a user means."""

import pytest

from tinydet_lite.errors import UserError
from tinydet_lite.media.classes import class_ids_of

LABELS = ("person", "bicycle", "traffic light", "Dog")


def test_names_and_ids():
    assert class_ids_of(["DOG", "1", "traffic light", "bicycle"], LABELS) == (1, 2, 3)
    # A name comes before an id: the digits' class 0 is called "1" here.
    assert class_ids_of(["1"], ("1", "0")) == (0,)


def test_an_exact_name_wins():
    labels = ("Red", "red", "Blue", "Blue")
    assert class_ids_of(["red"], labels) == (1,)
    assert class_ids_of(["Red"], labels) == (0,)
    assert class_ids_of(["blue"], labels) == class_ids_of(["Blue"], labels) == (2, 3)
    with pytest.raises(UserError, match="'RED' may be Red or red"):
        class_ids_of(["RED"], labels)


@pytest.mark.parametrize(
    ("word", "told"),
    [("persn", "the nearest of its 4: person;"), ("4", "the first of its 4: person, bicycle,"), ("-1", "from 0 to 3")],
)
def test_unknown(word, told):
    with pytest.raises(UserError, match=f"no class '{word}'") as error:
        class_ids_of(["person", word], LABELS)
    assert told in str(error.value)
