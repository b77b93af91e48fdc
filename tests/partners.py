"""Compares what two kernels, runtimes or processors make of one image, where proposals may differ.

Sums of floats round differently from one kernel to the next, by about 1e-5 of a value behind S's, M's or L's sixty
layers. So two proposals of nearly equal score may change places, and of two that overlap by nearly the NMS threshold
the other one may be kept, which moves a row or two, each by a whole box. Rows are therefore compared as sets, and a few
of them may have no partner; a fault of the arithmetic leaves most of them without one.
"""

from __future__ import annotations

import numpy as np

#: The share of rows that may be without a partner: 6 of 200 proposals, three times what one other choice of NMS moves.
FEW = 0.03
#: And of fewer rows so many: two other choices.
FEWEST = 4


def share_apart(
    rows: dict[str, np.ndarray], others: dict[str, np.ndarray], *, pixels: float, probability: float
) -> float:
    """The share of the rows for which no other row is near in box and in probabilities at once, in 0..1.

    Args:
      rows, others: of one image, boxes [P, 4] and class_probs [P, C+1].
      pixels: how far a coordinate may be off.
      probability: how far a probability may be off.
    """
    boxes = np.abs(rows["boxes"][:, None] - others["boxes"][None]).max(-1)  # [P, P]
    probs = np.abs(rows["class_probs"][:, None] - others["class_probs"][None]).max(-1)
    return float(1.0 - ((boxes <= pixels) & (probs <= probability)).any(1).mean())


def assert_same_rows(
    rows: dict[str, np.ndarray], others: dict[str, np.ndarray], *, pixels: float, probability: float
) -> None:
    """All but FEW (or FEWEST) of the rows have a partner, both ways: neither side may repeat one row for others."""
    for ours, theirs in ((rows, others), (others, rows)):
        apart = share_apart(ours, theirs, pixels=pixels, probability=probability)
        allowed = max(FEW, FEWEST / len(ours["boxes"]))
        assert apart <= allowed, f"{apart:.3f} of the rows have no partner within {pixels} pixels and {probability}"


def first(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The one image of a batch of one."""
    return {name: np.asarray(outputs[name])[0] for name in ("boxes", "class_probs")}
