"""One range for all tensors between which numbers are only moved: so that nothing is rounded again on the way.

A quantized tensor that is put together of others with ranges of their own has each of them rescaled first: an operator
more, a lookup for every number, and a rounding that nothing asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tinydet_tf.export.calibration import Range
from tinydet_tf.export.operators import Operator


def shared(found: dict[str, Range], operators: Iterable[Operator]) -> dict[str, Range]:
    """The ranges, each widened to what the tensors hold that its own exchanges numbers with.

    Args:
      found: the range of each tensor, by name.
      operators: between whose tensors ranges are shared; of other kinds of operators nothing is.
    """
    groups: dict[str, set[str]] = {name: {name} for name in found}
    for operator in operators:
        if operator.moves_numbers:
            group = set().union(*(groups[name] for name in operator.float_tensors))
            groups.update(dict.fromkeys(group, group))
    return {
        name: (min(found[other][0] for other in group), max(found[other][1] for other in group))
        for name, group in groups.items()
    }


def passed_on(ranges: Mapping[str, Range], operators: Iterable[Operator]) -> dict[str, Range]:
    """The ranges, and of tensors that have none that of the numbers that were moved there.

    Kept ranges are of the run's own graph; one of fewer proposals cuts the features' table into other pieces.

    Args:
      operators: in the graph's order.
    """
    found = dict(ranges)
    for operator in operators:
        seen = [found[name] for name in operator.float_tensors if name in found]
        if operator.moves_numbers and len(seen) == 1:
            found.update(dict.fromkeys(operator.float_tensors, seen[0]))
    return found
