"""A file that is being replaced is the old one or the new one, never half of either."""

from __future__ import annotations

import pytest

from bacs.atomic import replacing


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    for text in ("one", "two"):
        with replacing(path) as draft:
            draft.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    with pytest.raises(RuntimeError), replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "two"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]
