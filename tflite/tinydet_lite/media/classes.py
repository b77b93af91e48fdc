"""Which classes a user means: names or numbers -> class ids."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import UserError

_NEAREST = 5


def class_ids_of(wanted: Sequence[str], labels: Sequence[str]) -> tuple[int, ...]:
    """The ids of some classes, ascending.

    Args:
        wanted: class names, upper or lower case, or ids. A name that is a number ("7" of the digits) comes
            before the id of that number.
        labels: C class names.

    Raises:
        UserError: there is no such class; the message lists the nearest names.
    """
    ids = {label.casefold(): class_id for class_id, label in reversed(list(enumerate(labels)))}
    found = set()
    for word in wanted:
        if word.casefold() in ids:
            found.add(ids[word.casefold()])
        elif word.isdecimal() and int(word) < len(labels):
            found.add(int(word))
        else:
            near = difflib.get_close_matches(word.casefold(), ids, _NEAREST, 0.5)
            names = [labels[ids[name]] for name in near] or list(labels[:_NEAREST])
            relation = "the nearest" if near else "the first"
            raise UserError(
                f"the model has no class {word!r}; {relation} of its {len(labels)}: {', '.join(names)}; "
                f"or give an id from 0 to {len(labels) - 1}"
            )
    return tuple(sorted(found))
