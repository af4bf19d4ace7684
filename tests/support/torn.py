"""Torn variants of a whole segment, as copies that did not come to their end leave them.

What is lost is known from how a variant was made: nothing here asks the checked code.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PAGE = 8192

CUT = "cut, zeros behind"
CUT_OLD = "cut, an older segment behind"
SHORT = "cut short"
HEAD = "head missing"
HEAD_OLD = "head of an older segment"
PAGE_HOLE = "hole of whole pages"
OLD_PAGES = "pages of an older segment"
BLOCK_HOLE = "hole of 4 kB"
SECTOR_HOLE = "hole of sectors"

KINDS = (CUT, CUT_OLD, SHORT, HEAD, HEAD_OLD, PAGE_HOLE, OLD_PAGES, BLOCK_HOLE, SECTOR_HOLE)

HOLES_INSIDE_PAGES = (BLOCK_HOLE, SECTOR_HOLE)

_CONTINUED = 1


@dataclass(frozen=True)
class Variant:
    """A segment of which something is missing, from the offset ``at`` on."""

    kind: str
    at: int
    content: bytes


@dataclass(frozen=True)
class Whole:
    """A whole segment, and where the WAL in it ends: behind that there are zeros, or pages without records."""

    content: bytes
    used: int

    @property
    def is_full(self) -> bool:
        """Whether its records reach its end: no XLOG_SWITCH."""
        return self.used == len(self.content)


def whole(content: bytes, following: bytes | None) -> Whole:
    """Find out where the WAL in a whole segment ends; ``following`` is the segment after it, if there is one."""
    if following is not None and struct.unpack_from("<H", following, 2)[0] & _CONTINUED:
        return Whole(content, len(content))
    pages = len(content) // PAGE
    # Version 10 gives the pages behind XLOG_SWITCH headers.
    while pages > 1 and not content[(pages - 1) * PAGE + 24 : pages * PAGE].strip(b"\0"):
        pages -= 1
    used = len(content[: pages * PAGE].rstrip(b"\0"))
    return Whole(content, -(-used // 8) * 8)


def variants(segment: Whole, older: bytes, per_kind: int, seed: str) -> Iterator[Variant]:
    """Make torn variants that have lost some WAL; ``older`` is an earlier segment of the same cluster."""
    chance = random.Random(seed)
    content, used, size = segment.content, segment.used, len(segment.content)
    for kind in KINDS:
        for _ in range(per_kind):
            made = _make(kind, content, used, size, older, chance)
            # What has lost nothing but the unused tail is not torn.
            if made is not None and made.content[:used] != content[:used]:
                yield made


def _make(kind: str, content: bytes, used: int, size: int, older: bytes, chance: random.Random) -> Variant | None:
    if kind in (CUT, CUT_OLD, SHORT):
        at = _cut(used, chance)
        behind = {CUT: bytes(size - at), CUT_OLD: older[at:], SHORT: b""}[kind]
        return Variant(kind, at, content[:at] + behind)
    if kind in (HEAD, HEAD_OLD):
        length = min(chance.choice((24, 40, 41, 512, 777, 4096, PAGE, 10 * PAGE)), used)
        return Variant(kind, 0, (bytes(length) if kind == HEAD else older[:length]) + content[length:])
    unit = {BLOCK_HOLE: 4096, SECTOR_HOLE: 512}.get(kind, PAGE)
    at = chance.randrange(0, used, unit)
    length = unit * (1 if kind == BLOCK_HOLE else chance.choice((1, 1, 2, 3, 8, 40)))
    filler = older[at : at + length] if kind == OLD_PAGES else bytes(min(length, size - at))
    return Variant(kind, at, content[:at] + filler + content[at + length :])


def _cut(used: int, chance: random.Random) -> int:
    """Where a copy stopped: at a page, a block, a sector or anywhere; half of them near the end, where it is hard to see."""
    unit = chance.choice((PAGE, 4096, 512, 1))
    lowest = max(0, used - 2 * PAGE) if chance.random() < 0.5 else 0
    return min(used - 1, -(-chance.randrange(lowest, used) // unit) * unit)


def last_record(segment: Whole) -> int:
    """The offset of the last record that begins on a full segment's last page, or of that page's data if none begins there.

    From there on a tear can be told only by the record's checksum, part of which is in the next segment.
    """
    start = len(segment.content) - PAGE
    _, info, _, _, remaining = struct.unpack_from("<HHIQI", segment.content, start)
    at = start + 24
    if info & _CONTINUED:
        at += -(-remaining // 8) * 8
    last = start + 24
    while at < len(segment.content):
        last = at
        (length,) = struct.unpack_from("<I", segment.content, at)
        if length == 0:
            break
        at += -(-length // 8) * 8
        if at > len(segment.content):
            # Page headers within the record do not matter: it goes on in the next segment.
            break
    return last
