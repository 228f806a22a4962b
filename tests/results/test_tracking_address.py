"""A login inside a tracking URI goes nowhere."""

import pytest

from results import ResultsError, Tracker
from results.reachability import without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:s3cret@host:5000/base", "http://ann:***@host:5000/base"),
        ("http://ann:s3/cr@et@host:5000", "http://ann:***@host:5000"),
        ("https://s3cret@host", "https://***@host"),
        ("http://:s3cret@host", "http://:***@host"),
        ("http://ann:s3cret@[::1]:5000", "http://ann:***@[::1]:5000"),
        ("http://host:5000/base#token=s3cret", "http://host:5000/base#***"),
        ("postgresql://ann:s3cret@host/db", "postgresql://ann:***@host/db"),
        ("http://host:5000/#s3cret", "http://host:5000/#***"),
        ("postgresql://host/db?user=ann&password=s3cret&x=1", "postgresql://host/db?user=ann&password=***&x=1"),
    ],
)
def test_a_login_is_refused_and_not_shown(uri, shown, tmp_path):
    assert without_password(uri) == shown
    for use in (Tracker.check, lambda uri: Tracker(uri, "digits", tmp_path / "journal.jsonl")):
        with pytest.raises(ResultsError) as caught:
            use(uri)
        assert shown in caught.value.message
        assert "s3cret" not in str(caught.value)
        assert "cr@et" not in str(caught.value)
        wanted = "MLFLOW_TRACKING_PASSWORD" if uri.startswith("http") else "PGPASSWORD"
        assert wanted in caught.value.hint


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000/a@b",
        "http://[::1]:5000/a@b",
        "postgresql://ann@host/db",
        "sqlite:////folder/a:b@c.db",
        "databricks",
        "databricks://profile",
    ],
)
def test_what_is_no_login_stays(uri, tmp_path):
    assert without_password(uri) == uri
    Tracker(uri, "digits", tmp_path / "journal.jsonl")
