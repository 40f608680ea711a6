"""A result appears whole or not at all, and nothing that is not an earlier result is replaced."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from training.errors import InputError
from training.folders import staged, staged_file


def test_nothing_is_there_until_everything_is(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result"
    with staged(target) as folder:
        (folder / "a.txt").write_text("a", encoding="utf-8")
        assert not target.exists()
    assert (target / "a.txt").read_text(encoding="utf-8") == "a"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def half_done() -> None:
        with staged(tmp_path / "result") as folder:
            (folder / "half.txt").write_text("half", encoding="utf-8")
            raise failure

    with pytest.raises(failure):
        half_done()
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_result_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with staged(target, marker="done") as folder:
        (folder / "done").write_text("1", encoding="utf-8")
    with pytest.raises(RuntimeError), staged(target, marker="done"):
        raise RuntimeError
    assert (target / "done").read_text(encoding="utf-8") == "1"
    with staged(target, marker="done") as folder:
        (folder / "done").write_text("2", encoding="utf-8")
    assert (target / "done").read_text(encoding="utf-8") == "2"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("marker", [None, "done"])
def test_what_is_not_an_earlier_result_is_never_touched(tmp_path: Path, marker: str | None) -> None:
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work", encoding="utf-8")
    for target in (precious, precious.parent):
        with pytest.raises(InputError, match=str(target)), staged(target, marker):
            pytest.fail("the work must not begin")
    assert list(tmp_path.rglob("*")) == [precious.parent, precious]


def test_an_empty_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    with staged(tmp_path / "result") as folder:
        (folder / "a.txt").touch()
    assert (tmp_path / "result" / "a.txt").is_file()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with staged(tmp_path / "result") as folder:
            (folder / "half.txt").write_text("half", encoding="utf-8")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run.trec"

    def write(failure: BaseException | None) -> None:
        with staged_file(target) as file:
            file.write_text("half", encoding="utf-8")
            assert not target.exists()
            if failure is not None:
                raise failure
            file.write_text("whole", encoding="utf-8")

    with pytest.raises(RuntimeError):
        write(RuntimeError())
    with pytest.raises(InputError, match="No space left"):
        write(OSError(errno.ENOSPC, "No space left on device"))
    assert list(target.parent.iterdir()) == []
    write(None)
    assert target.read_text(encoding="utf-8") == "whole"
    with pytest.raises(InputError, match="is there already"):
        write(None)
    assert list(target.parent.iterdir()) == [target]
