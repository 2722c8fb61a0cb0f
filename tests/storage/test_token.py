"""The secret that lets people and programs in."""

from pathlib import Path

import pytest

from slimline.storage.token import token, write_private


def test_it_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "token"
    made = token(path)
    assert len(made) >= 32 and token(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert token(tmp_path / "other") != made


@pytest.mark.parametrize("content", ["", "short", " " * 100])
def test_what_is_no_token_is_refused(content: str, tmp_path: Path) -> None:
    write_private(tmp_path / "token", content)
    with pytest.raises(ValueError, match=str(tmp_path / "token")):
        token(tmp_path / "token")


def test_one_that_others_read_is_refused(tmp_path: Path) -> None:
    token(tmp_path / "token")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(ValueError, match="others may read it"):
        token(tmp_path / "token")


def test_a_private_file_that_others_could_read_is_private_again(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("old", "utf8")
    (tmp_path / "record").chmod(0o644)
    write_private(tmp_path / "record", "new")
    assert (tmp_path / "record").read_text("utf8") == "new"
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o600
