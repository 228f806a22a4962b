import pytest

from bacs.data import Digits, DigitsConfig, check
from bacs.errors import RequestError
from bacs.schema import parse


def test_all_faults_are_listed_together(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = DigitsConfig(source="mnist", canvas=20, min_digits=5, seed=-1, cache=str(blocked / "cache"))
    with pytest.raises(RequestError) as caught:
        Digits(config)
    faults = {fault.where: fault for fault in caught.value.faults}
    assert caught.value.faults == check(config)
    assert faults["dataset.canvas"].problem == "is 20, but must be at least dataset.digit_size (28)"
    assert "set dataset.canvas to 28 or more" in faults["dataset.canvas"].remedy
    assert faults["dataset.min_digits"].problem == "is 5, but must be at most dataset.max_digits (4)"
    assert "is null" in faults["dataset.root"].problem
    assert "is -1, but must be >= 0" in faults["dataset.seed"].problem
    assert "is not a folder" in faults["dataset.cache"].problem
    assert list(tmp_path.iterdir()) == [blocked]


def test_check_accepts_the_defaults_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check(DigitsConfig()) == []
    assert list(tmp_path.iterdir()) == []


def test_config_is_parsed_with_ranges():
    assert parse(DigitsConfig, {}, "dataset") == DigitsConfig()
    with pytest.raises(RequestError, match="must be one of: sklearn, mnist"):
        parse(DigitsConfig, {"source": "svhn"}, "dataset")
