"""The options that cut pictures into tiles, the same in every command that has them."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import UserError
from ..tiles import OVERLAP, check_layout, parse_grid


def add_tile_options(parser: argparse.ArgumentParser) -> None:
    tiles = parser.add_argument_group("tiles, for small objects in large pictures (.tflite only)")
    tiles.add_argument(
        "--tiles",
        metavar="RxC",
        help="look at R rows of C overlapping tiles, and at the whole; takes R * C + 1 times as long",
    )
    tiles.add_argument("--tile-size", type=int, metavar="N", help="the same with square tiles of N pixels")
    tiles.add_argument(
        "--overlap", type=float, metavar="0..0.9", help=f"of neighbouring tiles, a share of a tile (default: {OVERLAP})"
    )
    tiles.add_argument("--no-full-image", action="store_true", help="the tiles alone, without the picture as a whole")


def tile_arguments(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What TiledDetector takes beside the detector; None: pictures are looked at as a whole.

    Raises:
        UserError: options that are wrong, or that contradict each other.
    """
    if arguments.tiles is None and arguments.tile_size is None:
        if arguments.overlap is not None or arguments.no_full_image:
            raise UserError("--overlap and --no-full-image came without tiles; give --tiles or --tile-size too")
        return None
    grid = None if arguments.tiles is None else parse_grid(arguments.tiles)
    overlap = OVERLAP if arguments.overlap is None else arguments.overlap
    check_layout(grid=grid, tile_size=arguments.tile_size, overlap=overlap)
    full_image = not arguments.no_full_image
    return {"grid": grid, "tile_size": arguments.tile_size, "overlap": overlap, "full_image": full_image}
