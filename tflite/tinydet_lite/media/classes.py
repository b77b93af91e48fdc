"""Which classes a user means: names or numbers -> class ids."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import UserError

_NEAREST = 5


def class_ids_of(wanted: Sequence[str], labels: Sequence[str]) -> tuple[int, ...]:
    """The ids of some classes, ascending.

    Args:
        wanted: class names or ids. A name as it is written comes first, then in upper or lower case, if that
            means one class alone; a name that is a number ("7" of the digits) comes before the id of that number.
        labels: C class names.

    Raises:
        UserError: there is no such class, and the message lists the nearest names; or it may be several.
    """
    exact: dict[str, list[int]] = {}
    folded: dict[str, list[int]] = {}
    for class_id, label in enumerate(labels):
        exact.setdefault(label, []).append(class_id)
        folded.setdefault(label.casefold(), []).append(class_id)
    found: set[int] = set()
    for word in wanted:
        if word in exact:
            found.update(exact[word])
        elif word.casefold() in folded:
            names = list(dict.fromkeys(labels[class_id] for class_id in folded[word.casefold()]))
            if len(names) > 1:
                raise UserError(f"the class {word!r} may be {' or '.join(names)}; write it as one of them")
            found.update(folded[word.casefold()])
        elif word.isdecimal() and int(word) < len(labels):
            found.add(int(word))
        else:
            near = difflib.get_close_matches(word.casefold(), folded, _NEAREST, 0.5)
            names = [labels[folded[name][0]] for name in near] or list(labels[:_NEAREST])
            relation = "the nearest" if near else "the first"
            raise UserError(
                f"the model has no class {word!r}; {relation} of its {len(labels)}: {', '.join(names)}; "
                f"or give an id from 0 to {len(labels) - 1}"
            )
    return tuple(sorted(found))
