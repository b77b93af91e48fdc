"""Plain text tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ()) -> str:
    """Columns two spaces apart, each as wide as its widest cell; numbers to the right.

    Args:
        header: the columns' names.
        rows: a cell for each column.
        left: names of the columns of words, which are set to the left.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if name in left else cell.rjust(width) for cell, width, name in zip(row, widths, header)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
