"""Nothing that is written, logged or raised contains a credential."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosod.errors import ConfigError, GeosodError, ReadError, SceneError, identity, redacted
from geosod.results import Failure, SceneResult

SECRET = "5ecretS1gnature"


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("https://u:p@h.org/a/b.tif?sig=1#x", "https://h.org/a/b.tif"),
        ("https://u:p%40ss@h.org/a.tif", "https://h.org/a.tif"),
        ("https://u:p@ss@h.org/a.tif", "https://h.org/a.tif"),
        ("/vsicurl/https://h.org/b.tif?X-Amz-Signature=1", "/vsicurl/https://h.org/b.tif"),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fu%3Ap%40h.org%2Fa.tif%3Fsig%3D1", "/vsicurl/https://h.org/a.tif"),
        ("s3://key:secret@bucket/c.tif?X-Amz-Security-Token=1", "s3://bucket/c.tif"),
        ("/vsizip/{/vsicurl/https://h.org/x.zip?sig=1}/in.tif", "/vsizip/{/vsicurl/https://h.org/x.zip}/in.tif"),
        ("/vsis3/bucket/key.tif", "/vsis3/bucket/key.tif"),
        ("/data/a?b#c.tif", "/data/a?b#c.tif"),
        ("C:\\images\\a.tif", "C:\\images\\a.tif"),
        ("https://h.org/icon@2x.tif", "https://h.org/icon@2x.tif"),
        ("PG:host=h user=u password='x y' table=t", "PG:host=h user=u password=*** table=t"),
        ("cannot open https://h.org/a.tif?sig=1: 403", "cannot open https://h.org/a.tif 403"),
        ("", ""),
    ],
)
def test_secrets_are_removed_from_addresses_anywhere_in_a_text(uri: str, clean: str) -> None:
    assert redacted(uri) == clean
    assert redacted(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /a.tif?sig={} (Caused by X)",
        "a.tif?{}, band 1: IReadBlock failed at X offset 0",
        "a.tif?X-Amz-Signature={}&X-Amz-Date=1, band 1: IReadBlock failed",
        "Authorization: Bearer {}",
        "authorization='AWS4-HMAC-SHA256 Credential={}, Signature={}'",
        "AWS_SECRET_ACCESS_KEY={} AWS_SESSION_TOKEN={}",
        "X-Amz-Security-Token={}&x=1",
        "<SourceFilename>/vsicurl/https://u:{}@h/x.tif?{}</SourceFilename>",
        "could not open https://user:{}@h.org/a b.tif and https://h/x?token={}, then gave up",
        "api_key={}; sig={}",
    ],
)
def test_secrets_are_blanked_in_messages_of_any_library(text: str) -> None:
    message = text.replace("{}", SECRET)
    assert SECRET not in redacted(message)
    for kind in (GeosodError, ConfigError, SceneError, ReadError):
        error = kind(message)
        assert SECRET not in str(error) and SECRET not in repr(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert SECRET not in repr(Failure("x", f"https://h/a.tif?s={SECRET}", None, "read", "ReadError", message))
    assert SECRET not in repr(SceneResult("x", f"https://h/a.tif?s={SECRET}", "done"))


@given(st.text(max_size=200))
def test_redaction_is_idempotent(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


@given(st.from_regex(r"[a-zA-Z0-9_/ .äß-]{0,60}", fullmatch=True))
def test_ordinary_words_and_paths_are_unchanged(text: str) -> None:
    assert redacted(text) == text == identity(text)


def test_a_link_signed_anew_is_the_same_file() -> None:
    assert identity("https://h/a.tif?sig=1&se=2") == identity("https://h/a.tif?sig=9") == "https://h/a.tif"
    assert identity("https://h/a.tif") != identity("https://h/b.tif")
