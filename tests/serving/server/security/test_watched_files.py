"""Files that change while they are watched, however they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import UnusableFile
from serving.server.security.watched_files import WatchedFiles


def _joined(*contents: bytes) -> bytes:
    if b"bad" in contents:
        raise UnusableFile("bad")
    return b"".join(contents)


def test_a_change_within_a_tick_of_the_clock_and_of_no_other_size_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"000")
    files = WatchedFiles((path,), _joined)
    assert files.load() == b"000"
    for number in range(300):
        path.write_bytes(b"%03d" % number)
        assert files.current() == b"%03d" % number


def test_what_did_not_change_is_not_made_again(tmp_path: Path) -> None:
    made = []
    path = tmp_path / "file"
    path.write_bytes(b"one")
    files = WatchedFiles((path,), lambda content: made.append(content) or content)
    files.load()
    for _ in range(5):
        path.touch()
        assert files.current() == b"one"
    assert made == [b"one"]


def test_the_last_good_content_stays_and_the_next_one_is_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = (tmp_path / "one", tmp_path / "two")
    for path in paths:
        path.write_bytes(b"1")
    files = WatchedFiles(paths, _joined)
    assert files.load() == b"11"
    for _ in range(3):
        paths[0].write_bytes(b"bad")
        assert files.current() == b"11"
    assert [record.getMessage() for record in caplog.records] == ["bad; the previous content stays in use"]
    paths[0].write_bytes(b"2")
    assert files.current() == b"21"
    paths[1].unlink()
    assert files.current() == b"21"
    assert f"can't read {paths[1]}: No such file" in caplog.text
    paths[1].write_bytes(b"2")
    assert files.current() == b"22"


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="can't read"):
        WatchedFiles((tmp_path / "absent",), _joined).load()
    (tmp_path / "file").write_bytes(b"bad")
    with pytest.raises(UnusableFile, match="bad"):
        WatchedFiles((tmp_path / "file",), _joined).load()
