"""Where a partition is read from when it is assigned to a worker."""

from __future__ import annotations

__all__ = ["LogTruncatedError", "start_offset"]


class LogTruncatedError(RuntimeError):
    """The log ends before an offset that was committed: the broker has lost records that were stored."""


def start_offset(*, committed: int | None, earliest: int, end: int, known: bool, chunk_records: int) -> int:
    """The offset to start at: a chunk's start, or what retention has left of the chunk.

    Parameters
    ----------
    committed
        What the consumer group has committed, None where it has committed nothing.
    earliest, end
        Of the log: the first offset that can be read, and one past the last.
    known
        Whether the source has been read before. What is committed for a source that has not belongs to
        an earlier incarnation of the topic, and says nothing about this one.
    chunk_records
        Size of a chunk.

    Raises
    ------
    LogTruncatedError
        The log ends before what is committed.

    Examples
    --------
    >>> start_offset(committed=2500, earliest=0, end=9000, known=True, chunk_records=1000)
    2000
    >>> start_offset(committed=2500, earliest=2300, end=9000, known=True, chunk_records=1000)
    2300
    """
    if committed is None or not known:
        return earliest
    if committed > end:
        raise LogTruncatedError(f"the log ends at offset {end}, but {committed} is committed")
    return max(committed - committed % chunk_records, earliest)
