"""Content-Encodings: gzip, deflate, lz4 and zstd, piece by piece."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from sinks.embedded import EngineError


class Decoder(Protocol):
    """What undoes a Content-Encoding piece by piece."""

    def decompress(self, data: Any, /) -> bytes:
        """Give the plain bytes that this piece completes."""


def decoder(encoding: str) -> Any:
    """Start the decoder of a Content-Encoding; None for plain bytes.

    Raises
    ------
    EngineError
        48 (NOT_IMPLEMENTED) for an encoding that is not served.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    if name == "lz4":
        return _lz4().LZ4FrameDecompressor()
    if name == "zstd":
        return _zstd().ZstdDecompressor()
    raise EngineError(
        48, "NOT_IMPLEMENTED", f"Content-Encoding {name[:20]!r} is not served: gzip, deflate, lz4, zstd are"
    )


class Encoder:
    """A Content-Encoding of an answer."""

    def __init__(
        self, name: str, begin: bytes, compress: Callable[[Any], bytes], flush: Callable[[], bytes]
    ) -> None:
        self.name = name
        self._begin = begin
        self._compress = compress
        self.flush = flush

    def compress(self, data: Any) -> bytes:
        """Compress a piece."""
        begin, self._begin = self._begin, b""
        return begin + self._compress(data)


def accepted_encoder(accept_encoding: str) -> Encoder | None:
    """Start the cheapest of the encodings that a client accepts; None when it accepts none of ours."""
    accepted = {part.split(";")[0].strip().lower() for part in accept_encoding.split(",")}
    if "lz4" in accepted:
        frame = _lz4().LZ4FrameCompressor()
        return Encoder("lz4", frame.begin(), frame.compress, frame.flush)
    if "zstd" in accepted:
        stream = _zstd().ZstdCompressor(level=1)
        return Encoder("zstd", b"", stream.compress, stream.flush)
    if "gzip" in accepted:
        packer = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return Encoder("gzip", b"", packer.compress, packer.flush)
    return None


def _lz4() -> Any:
    return importlib.import_module("lz4.frame")


def _zstd() -> Any:
    # Python has it from 3.14 on; before, the package that clickhouse-connect brings.
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
