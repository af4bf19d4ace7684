"""The codecs of compressed files: reading what one holds, and making one. Loaded only where there is such a file.

gzip, bzip2 and xz are the standard library's; zstandard and lz4 are optional packages, missing until they are installed.
What a reader gets is no more than the codec vouches for: it reads to the end of the data, whose checksum is compared there, and a
file without that end is damaged, or still being written. Data may follow data, as several programs for several processors write
them; zeros behind the end are padding.
"""

import os
import sys

from pystandby import osdep
from pystandby.exits import MODULE_MISSING, StandbyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_INPUT = 1 << 20
"""Bytes of a file that are read at once."""

_OUTPUT = 4 << 20
"""Bytes that come out of a decoder at once, which takes care that no file fills the memory: one kilobyte can hold a gigabyte."""

_MORSEL = 2 << 10
"""Bytes that zstandard's decoder gets at once, which has no such limit: at most 64 MB come out of them."""

_MOST_MEMORY = 256 << 20
"""Bytes that a decoder of xz may take for itself; the largest preset takes 65 MB."""


class Damaged(osdep.SourceError):
    """What a compressed file holds ends early, or is not what it should be: still being written, as far as one can see."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)
        self.reason = reason


class MissingCodecError(StandbyError):
    """What reads and makes files of an ending is not installed: nothing is known of what such a file holds."""

    def __init__(self, ending: str, module: str, package: str, failure: ImportError) -> None:
        hint = f'Install it with "{sys.executable} -m pip install {package}"'
        super().__init__(
            MODULE_MISSING,
            f'Python\'s module "{module}", which "{ending}" files take, cannot be imported: {failure}',
            hint=hint if package else f"Have pystandby run by a Python that has it: {sys.executable} was built without",
        )


def expanded(descriptor: int, ending: str) -> "Iterator[bytes]":
    """What an open compressed file holds, from its beginning, in pieces.

    Raises MissingCodecError; Damaged, perhaps after some pieces; and another osdep.SourceError where the file cannot be read.
    """
    make = _DECODERS[ending](ending)
    os.lseek(descriptor, 0, os.SEEK_SET)
    data = osdep.read(descriptor, _INPUT)
    if not data:
        raise Damaged("is empty")
    is_empty = True
    while data:
        decoder = make()
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = osdep.read(descriptor, _INPUT)
                if not data:
                    raise Damaged(f"is not whole: its {ending[1:]} data break off")
            try:
                piece = decoder.decompress(data, _OUTPUT)
            except MemoryError:
                raise
            except Exception as failure:
                # Each codec has its own.
                reason = str(failure).partition("\n")[0] or type(failure).__name__
                raise Damaged(f"is not whole: its {ending[1:]} data are damaged ({reason})") from failure
            data = b""
            if piece:
                is_empty = False
                yield piece
        data = (decoder.unused_data or b"").lstrip(b"\0")
        while not data:
            more = osdep.read(descriptor, _INPUT)
            if not more:
                break
            data = more.lstrip(b"\0")
    if is_empty:
        raise Damaged(f"is not whole: its {ending[1:]} data hold nothing")


def head(descriptor: int, ending: str, size: int) -> bytes:
    """The first ``size`` bytes of what an open compressed file holds, or fewer if it holds fewer. Raises as expanded()."""
    found = b""
    for piece in expanded(descriptor, ending):
        found += piece[: size - len(found)]
        if len(found) >= size:
            break
    return found


def compressed(descriptor: int, size: int, ending: str) -> "Iterator[bytes]":
    """The next ``size`` bytes of an open file, compressed, in pieces.

    Raises MissingCodecError, and osdep.SourceError where the file has fewer, or cannot be read.
    """
    encoder = _ENCODERS[ending](ending, size)
    while size:
        data = osdep.read(descriptor, min(size, _INPUT))
        if not data:
            raise osdep.SourceError(0, "it has become shorter")
        size -= len(data)
        yield encoder.compress(data)
    yield encoder.flush()


def require(ending: str) -> None:
    """Raise MissingCodecError if files of an ending can be neither read nor made."""
    _DECODERS[ending](ending)


def _module(ending: str, name: str, package: str = "") -> "Any":
    """Import a module, whose parent package it may be in."""
    try:
        try:
            return __import__(name, fromlist=["_"])
        except ImportError:
            # The executable starts Python knowing only where our own packages are.
            osdep.find_packages()
            return __import__(name, fromlist=["_"])
    except ImportError as failure:
        raise MissingCodecError(ending, name, package, failure) from failure


# Reading: what makes a decoder for each run of data, with the attributes of bz2.BZ2Decompressor: decompress(data, most bytes),
# needs_input, eof, unused_data.


def _gzip_decoder(ending: str) -> "Callable[[], Any]":
    zlib = _module(ending, "zlib")
    return lambda: _Inflater(zlib.decompressobj(_GZIP))


_GZIP = 31
"""zlib's wbits for data with gzip's header and checksum."""


class _Inflater:
    """zlib's decoder, which leaves it to its caller to keep what it has not consumed."""

    def __init__(self, stream: "Any") -> None:
        self._stream = stream

    def decompress(self, data: bytes, most: int) -> bytes:
        piece: bytes = self._stream.decompress(self._stream.unconsumed_tail + data, most)
        return piece

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        rest: bytes = self._stream.unused_data
        return rest


def _bzip2_decoder(ending: str) -> "Callable[[], Any]":
    decoder: Callable[[], Any] = _module(ending, "bz2").BZ2Decompressor
    return decoder


def _xz_decoder(ending: str) -> "Callable[[], Any]":
    lzma = _module(ending, "lzma")
    form = lzma.FORMAT_ALONE if ending == ".lzma" else lzma.FORMAT_XZ
    return lambda: lzma.LZMADecompressor(form, memlimit=_MOST_MEMORY)


def _zstandard_decoder(ending: str) -> "Callable[[], Any]":
    zstandard = _module(ending, "zstandard", "zstandard")
    return lambda: _Zstandard(zstandard.ZstdDecompressor().decompressobj())


class _Zstandard:
    """zstandard's decoder, which puts out all that it can make of what it gets."""

    def __init__(self, stream: "Any") -> None:
        self._stream = stream
        self._data = b""
        self._at = 0

    def decompress(self, data: bytes, most: int) -> bytes:
        if data:
            self._data, self._at = data, 0
        morsel = self._data[self._at : self._at + _MORSEL]
        self._at += len(morsel)
        piece: bytes = self._stream.decompress(morsel)
        return piece

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        rest: bytes = self._stream.unused_data
        return rest + self._data[self._at :]


def _lz4_decoder(ending: str) -> "Callable[[], Any]":
    decoder: Callable[[], Any] = _module(ending, "lz4.frame", "lz4").LZ4FrameDecompressor
    return decoder


_DECODERS = {
    ".gz": _gzip_decoder,
    ".bz2": _bzip2_decoder,
    ".xz": _xz_decoder,
    ".lzma": _xz_decoder,
    ".zst": _zstandard_decoder,
    ".lz4": _lz4_decoder,
}


# Making: what makes an encoder for a file of so many bytes, with compress(data) and flush(). Fast, for a server that archives one
# segment after the other, and with a checksum of the whole.


def _gzip_encoder(ending: str, size: int) -> "Any":
    return _module(ending, "zlib").compressobj(1, wbits=_GZIP)


def _zstandard_encoder(ending: str, size: int) -> "Any":
    return _module(ending, "zstandard", "zstandard").ZstdCompressor(level=1, write_checksum=True).compressobj(size=size)


def _lz4_encoder(ending: str, size: int) -> "Any":
    frame = _module(ending, "lz4.frame", "lz4")
    return _Lz4(frame.LZ4FrameCompressor(content_checksum=True), size)


class _Lz4:
    """lz4's encoder, which wants the beginning to be asked for."""

    def __init__(self, encoder: "Any", size: int) -> None:
        self._encoder = encoder
        self._begun: bytes = encoder.begin(source_size=size)

    def compress(self, data: bytes) -> bytes:
        piece, self._begun = self._begun, b""
        return piece + bytes(self._encoder.compress(data))

    def flush(self) -> bytes:
        return self._begun + bytes(self._encoder.flush())


_ENCODERS = {".gz": _gzip_encoder, ".zst": _zstandard_encoder, ".lz4": _lz4_encoder}
