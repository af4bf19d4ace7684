"""What a look says of itself while it is under way: whether it gets on, or waits for an archive that does not answer."""

from __future__ import annotations

import os

import pytest
from support import segments
from support.command import RECOVERYXLOG, Standby

from pystandby import fetch, osdep, ready, wal
from pystandby.archive import Archive, Entry
from pystandby.asker import Asker
from pystandby.options import Options
from pystandby.place import Copy

NAME = segments.name(5)


@pytest.fixture
def fetcher(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> fetch.Fetcher:
    monkeypatch.chdir(standby.data.path)
    # The server that asks is this process: its group's leader may have gone, as that of a job in the background.
    monkeypatch.setattr(osdep, "startup_process", lambda postmaster: os.getpid())
    options = Options().for_file(NAME, RECOVERYXLOG)
    options.archivelocation = str(standby.archive)
    options.stable = 0
    return fetch.Fetcher(options, wal.SEGMENT, Asker(NAME, RECOVERYXLOG))


def test_an_archive_that_does_not_answer_is_no_progress(
    standby: Standby, fetcher: fetch.Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.put(NAME)
    look = Archive.look
    for _ in range(2):
        # The second look must not be credited with what the first has done.
        answers: list[bool] = []

        def slow_look(archive: Archive, name: str, answers: list[bool] = answers) -> Entry:
            answers.extend(fetcher.progress() for _ in range(2))
            return look(archive, name)

        monkeypatch.setattr(Archive, "look", slow_look)
        found = fetcher.fetch()
        assert found.copy is not None
        found.copy.discard()
        # It may look once more, to see that the file rests.
        assert answers[:2] == [False, False]


def test_what_was_finished_just_before_it_is_asked_is_progress(standby: Standby, fetcher: fetch.Fetcher) -> None:
    """The judgement of 1 GB holds the interpreter: whoever wants to ask meanwhile asks when it is over."""
    standby.put(NAME)
    found = fetcher.fetch()
    assert found.state == fetch.READY
    assert found.copy is not None
    found.copy.discard()
    assert fetcher.progress()
    assert not fetcher.progress()


def test_judging_is_progress(standby: Standby, fetcher: fetch.Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    standby.put(NAME)
    answers: list[bool] = []
    judge = ready.judge_pages

    def slow_judge(content: bytes, name: str, at_rest: bool = False) -> ready.Verdict:
        answers.extend(fetcher.progress() for _ in range(3))
        return judge(content, name, at_rest)

    monkeypatch.setattr(ready, "judge_pages", slow_judge)
    found = fetcher.fetch()
    assert found.copy is not None
    found.copy.discard()
    assert answers == [True] * 3


def test_a_copy_that_stands_still_is_no_progress(
    standby: Standby, fetcher: fetch.Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby.put(NAME)
    answers: list[bool] = []
    copy = Copy.fill

    def slow_copy(target: Copy, source: int, size: int) -> None:
        answers.extend(fetcher.progress() for _ in range(3))
        copy(target, source, size)
        answers.extend(fetcher.progress() for _ in range(2))

    monkeypatch.setattr(Copy, "fill", slow_copy)
    found = fetcher.fetch()
    assert found.copy is not None
    found.copy.discard()
    assert answers == [True, False, False, True, False]
