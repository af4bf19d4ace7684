"""Compressed files for tests, made by the codecs' own Python packages: nothing here touches the checked code."""

from __future__ import annotations

import bz2
import gzip
import lzma

import lz4.frame
import zstandard

ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".lz4")

CHECKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
"""Those with a checksum of what they hold."""


def compress(content: bytes, ending: str, checksum: bool = True) -> bytes:
    """A whole file with this content; ``checksum`` only where the codec leaves the choice."""
    made: bytes
    if ending == ".gz":
        made = gzip.compress(content, 1)
    elif ending == ".bz2":
        made = bz2.compress(content, 1)
    elif ending in (".xz", ".lzma"):
        made = lzma.compress(content, lzma.FORMAT_XZ if ending == ".xz" else lzma.FORMAT_ALONE, preset=0)
    elif ending == ".zst":
        made = zstandard.ZstdCompressor(level=1, write_checksum=checksum).compress(content)
    else:
        made = lz4.frame.compress(content, content_checksum=checksum, block_size=lz4.frame.BLOCKSIZE_MAX64KB)
    return made


def expand(content: bytes, ending: str) -> bytes:
    """What a whole file holds."""
    made: bytes
    if ending == ".zst":
        made = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    elif ending == ".lz4":
        made = lz4.frame.decompress(content)
    else:
        made = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(ending, lzma.decompress)(content)
    return made


def bomb(beginning: bytes, ending: str, size: int) -> bytes:
    """A small file that holds ``beginning`` and then zeros, ``size`` bytes in all, as concatenated streams."""
    piece = 64 << 20
    zeros = compress(bytes(piece), ending) if ending not in (".lzma",) else b""
    if ending == ".lzma":
        # Only one stream there.
        return compress(beginning + bytes(min(size, 8 * piece) - len(beginning)), ending)
    return compress(beginning, ending) + zeros * (size // piece)
