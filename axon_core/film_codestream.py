"""The image size that compressed pixel data states itself, read before a native decoder sees it.

A decoder believes the codestream, not DICOM's Rows and Columns, and would allocate whatever it asks for.
"""

from __future__ import annotations

import struct

JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}  # SOF0-15, JPEG-LS
JPEG, JPEG2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
MAX_TILES = 4096


def codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) of a JPEG, JPEG-LS or JPEG 2000 codestream; None when none of them or damaged."""
    if data.startswith(JPEG):
        return _jpeg_size(data)
    if data.startswith(JPEG2000):
        return _jpeg2000_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int, int] | None:
    """From the frame header SOFn (ITU-T T.81 B.2.2; JPEG-LS: T.87 C.2.2)."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in JPEG_FRAMES:
            rows, columns, components = struct.unpack(">HHB", data[at + 5 : at + 10])
            return rows, columns, components
        at += 1 if data[at + 1] == 0xFF else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def _jpeg2000_size(data: bytes) -> tuple[int, int, int] | None:
    """From the SIZ marker (ITU-T T.800 A.5.1); None also for so many tiles that the tile table alone would be huge."""
    if len(data) < 42:
        return None
    right, bottom, x0, y0, tile_w, tile_h, tile_x0, tile_y0, components = struct.unpack(">8IH", data[8:42])
    if not (tile_w and tile_h and x0 < right and y0 < bottom):
        return None
    tiles = -(-(right - tile_x0) // tile_w) * -(-(bottom - tile_y0) // tile_h)
    return (bottom - y0, right - x0, components) if 0 < tiles <= MAX_TILES else None
