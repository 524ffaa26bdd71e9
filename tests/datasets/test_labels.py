"""The value that all of it is about."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosod.datasets.class_map import order_classes, parse_renames, rename_classes
from geosod.datasets.labels import ANY_CLASS, LabelledImage, Labels
from geosod.errors import ConfigError

IMAGES = tuple(LabelledImage(f"i{k}", f"/x/i{k}.tif", 100, 80, k + 1) for k in range(3))


@st.composite
def labels(
    draw: st.DrawFn, images: tuple[LabelledImage, ...] = IMAGES, classes: tuple[str, ...] = ("a", "b", "c")
) -> Labels:
    count = draw(st.integers(0, 8))

    def column(top: int, low: int = 0) -> list[int]:
        return draw(st.lists(st.integers(low, top), min_size=count, max_size=count))

    corner = np.array([column(50), column(50)]).T.reshape(-1, 2)
    size = np.array([column(20), column(20)]).T.reshape(-1, 2)
    kinds = np.array(column(len(classes) - 1, ANY_CLASS), np.int32)
    return Labels(
        images=images,
        classes=classes,
        image=column(len(images) - 1),
        boxes=np.hstack([corner, corner + size]),
        labels=kinds,
        ignore=kinds == ANY_CLASS,
    )


def as_rows(some: Labels) -> list[tuple[object, ...]]:
    names = (*some.classes, None)
    return [
        (some.images[i].id, names[k], *box)
        for i, k, box in zip(some.image, some.labels, some.boxes.tolist(), strict=True)
    ]


@given(labels(), labels(images=tuple(LabelledImage(f"j{k}", "", 9, 9) for k in range(2)), classes=("c", "d")))
def test_concat_keeps_every_box_under_its_name(one: Labels, other: Labels) -> None:
    joined = Labels.concat([one, other])
    assert as_rows(joined) == as_rows(one) + as_rows(other)
    assert joined.classes == ("a", "b", "c", "d") and len(joined.images) == 5


@given(labels(), st.permutations([0, 1, 2]), st.integers(0, 3))
def test_images_are_chosen_with_their_boxes(some: Labels, order: list[int], count: int) -> None:
    part = some.of_images(order[:count])
    assert [image.id for image in part.images] == [f"i{k}" for k in order[:count]]
    wanted = [row for k in order[:count] for row in as_rows(some) if row[0] == f"i{k}"]
    assert as_rows(part) == wanted
    assert [as_rows(part[rows]) for rows in part.by_image()] == [
        [row for row in wanted if row[0] == image.id] for image in part.images
    ]


@given(labels())
def test_classes_are_joined_dropped_and_ordered(some: Labels) -> None:
    renamed = rename_classes(some, {"a": "x", "b": "x", "c": None})
    names = {"a": "x", "b": "x", None: None}
    assert as_rows(renamed) == [(i, names[name], *box) for i, name, *box in as_rows(some) if name != "c"]
    assert renamed.classes == ("x",)
    assert as_rows(order_classes(some, ["z", "c", "b", "a"])) == as_rows(some)
    assert order_classes(some, ["z", "c", "b", "a"]).classes == ("z", "c", "b", "a")


def test_renames_are_parsed(tmp_path: Path) -> None:
    assert parse_renames("a=b, c = d,e=") == {"a": "b", "c": "d", "e": None}
    (tmp_path / "m.yaml").write_text("a: b\n1: two\nc:\n")
    assert parse_renames(str(tmp_path / "m.yaml")) == {"a": "b", "1": "two", "c": None}
    for wrong in ("a", "=b", "a=b,a=c", str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError, match="rename-classes"):
            parse_renames(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[0, 0, 1]]}, "boxes have shape (1, 3)"),
        ({"boxes": [[5, 0, 1, 1]]}, "box 0 is [5.0, 0.0, 1.0, 1.0]"),
        ({"boxes": [[0, 0, np.nan, 1]]}, "finite values"),
        ({"image": [3]}, "image holds 3, but there are 3; they count from 0"),
        ({"labels": [2]}, "labels holds 2, but there are 2"),
        ({"labels": [-1]}, "labels holds -1"),
        ({"labels": [0, 1]}, "labels has shape (2,), expected (1,)"),
        ({"area": [-1.0]}, "area holds values that are negative"),
        ({"classes": ["a", "a"]}, "classes holds 'a' twice"),
        ({"class_ids": [1]}, "1 class_ids for 2 classes"),
        ({"points": True}, "points have boxes of width and height 0"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "images holds 'i0' twice"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "images": IMAGES,
        "classes": ["a", "b"],
        "image": [0],
        "boxes": [[0, 0, 1, 1]],
        "labels": [0],
    }
    Labels(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        Labels(**(good | change))  # type: ignore[arg-type]
    assert message in str(error.value)


def test_an_unknown_class_is_refused() -> None:
    some = Labels(images=IMAGES, classes=["a", "b"], image=[0], boxes=[[0, 0, 1, 1]], labels=[1])
    with pytest.raises(ConfigError, match="no class 'z'; the labels have a, b"):
        rename_classes(some, {"z": "a"})
    with pytest.raises(ConfigError, match=r"v\.json: the class 'b' is none of a, B; .*'b=' .*; did you mean 'B'"):
        order_classes(some, ["a", "B"], where="v.json")


def test_columns_are_copies_that_cannot_be_written() -> None:
    boxes = np.zeros((1, 4))
    some = Labels(images=IMAGES, classes=["a"], image=[0], boxes=boxes, labels=[0])
    boxes[:] = 7
    assert not some.boxes.any()
    with pytest.raises(ValueError, match="read-only"):
        some.boxes[:] = 1
    assert as_rows(pickle.loads(pickle.dumps(some))) == as_rows(some)
