"""Files of every format with bytes cut off, changed or put in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geosod.datasets.class_map import rename_classes
from geosod.datasets.formats import FORMATS
from geosod.datasets.read import read_labels
from geosod.datasets.write import write_labels
from geosod.errors import GeosodError
from tests.datasets.samples import NAMES, XVIEW_NAMES, sample_labels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, list[str]]]:
    """For each format its path, a file of it, and the scenes."""
    root = tmp_path_factory.mktemp("whole")
    labels = sample_labels(root / "images")
    found = {}
    for name, one in FORMATS.items():
        chosen = rename_classes(labels, dict(zip(NAMES, XVIEW_NAMES, strict=True))) if name == "xview" else labels
        path = root / f"{name}{one.suffix}"
        write_labels(chosen, path, format=name)
        files = (
            [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".xml", ".json"))
        )
        found[name] = (path, max(files, key=lambda p: p.stat().st_size), [image.uri for image in labels.images])
    return found


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_a_crash(name: str, whole: dict[str, tuple[Path, Path, list[str]]], data: st.DataObject) -> None:
    """Bytes cut off, changed or put in: labels, or an error of ours."""
    path, file, scenes = whole[name]
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(
        st.one_of(st.none(), st.binary(min_size=0, max_size=4), st.sampled_from([b"-", b"9e99", b"null", b'"']))
    )
    damaged = content[:at] if new is None else content[:at] + new + content[at + len(new) :]
    try:
        file.write_bytes(damaged)
        reading = read_labels(
            path, format=name, scenes=scenes if FORMATS[name].read.__name__ == "read_vector" else (), invalid="skip"
        )
        assert len(reading.labels) <= 40
    except GeosodError:
        pass
    finally:
        file.write_bytes(content)
