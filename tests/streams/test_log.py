from __future__ import annotations

import logging

from streams.log import Seldom


def entry(name: str, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, ("127.0.0.1",), None)


def test_a_library_that_repeats_itself_is_heard_once_in_a_while() -> None:
    seldom = Seldom(every_s=3600)
    assert seldom.filter(entry("aiokafka.client", "no answer of %s"))
    assert not any(seldom.filter(entry("aiokafka.client", "no answer of %s")) for _ in range(50))
    # Something else it says is heard, and so is another one that says the same.
    assert seldom.filter(entry("aiokafka.client", "no metadata of %s"))
    assert seldom.filter(entry("aiokafka.consumer", "no answer of %s"))


def test_what_was_held_back_is_counted() -> None:
    seldom = Seldom(every_s=0)
    seldom._last["aiokafka", "no answer of %s"] = (0.0, 41)
    record = entry("aiokafka", "no answer of %s")
    assert seldom.filter(record)
    assert record.getMessage() == "no answer of 127.0.0.1 (and 41 more like it)"


def test_the_workers_own_words_are_never_held_back() -> None:
    seldom = Seldom(every_s=3600)
    assert all(seldom.filter(entry("streams.writer", "no answer of %s")) for _ in range(5))
