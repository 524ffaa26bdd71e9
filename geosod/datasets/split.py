"""Divide labelled images into parts for training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import shapely

from geosod.arrays import FloatArray, IntArray
from geosod.datasets.image_files import scene_of
from geosod.datasets.labels import ANY_CLASS, Labels
from geosod.errors import ConfigError, LabelError
from geosod.georeference.points import georeferenced
from geosod.georeference.polygons import footprint

#: Whole images are divided, or the scenes that they are tiles of, or groups of images at one place.
By = Literal["image", "scene", "location"]

#: Metres in a degree of latitude.
_DEGREE = 111_320.0


def split_labels(
    labels: Labels,
    parts: Mapping[str, float],
    *,
    by: By = "image",
    stratify: bool = False,
    distance: float = 0.0,
    seed: int = 0,
) -> dict[str, Labels]:
    """Divide the images of a set at random; the same seed divides the same set in the same way.

    Args:
        labels: any labels.
        parts: name → share, which add up to 1, such as ``{"train": 0.75, "val": 0.25}``.
        by: what stays together. ``scene``: the tiles of one scene. ``location``: images whose footprints overlap, or
            are nearer than `distance`, directly or through others.
        stratify: choose so that every part has its share of the boxes of each class, rare classes first (after
            Sechidis et al. 2011, *On the Stratification of Multi-label Data*).
        distance: metres, for ``location``.
        seed: of the random numbers. Groups of several images are given out by size, and it chooses among those of one
            size.

    Returns:
        Name → labels, with images in the order of the set.

    Raises:
        ConfigError: the shares are wrong, or there are fewer groups than parts.
        LabelError: an image has no position, for ``location``.
        SceneError: an image cannot be opened, for ``location``.
    """
    shares = _checked(parts)
    groups = _groups(labels, by, distance)
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < len(parts):
        raise ConfigError(
            f"split: {count} groups of images by {by} for {len(parts)} parts; use fewer parts, or another --by"
        )
    rng = np.random.default_rng(seed)
    part = (_stratified(labels, groups, shares, rng) if stratify else _random(groups, shares, rng))[groups]
    return {name: labels.of_images(np.flatnonzero(part == k)) for k, name in enumerate(parts)}


def _checked(parts: Mapping[str, float]) -> FloatArray:
    shares = np.array(list(parts.values()), np.float64)
    if len(shares) < 2 or not ((shares > 0) & np.isfinite(shares)).all() or abs(shares.sum() - 1) > 1e-6:
        listed = ",".join(f"{name}={share:g}" for name, share in parts.items())
        raise ConfigError(
            f"split {listed or 'into nothing'}: give two or more shares that add up to 1, as train=0.75,val=0.25"
        )
    return shares


def _groups(labels: Labels, by: By, distance: float) -> IntArray:
    """(images,) int64, the group of each image, counted from 0 in the order of the set."""
    if by == "image":
        return np.arange(len(labels.images))
    if by == "scene":
        names = [image.scene or image.id for image in labels.images]
        position = {name: k for k, name in enumerate(dict.fromkeys(names))}
        return np.array([position[name] for name in names], np.int64)
    if by == "location":
        return _by_location(labels, distance)
    raise ConfigError(f"split by {by!r}: choose image, scene or location")


def _by_location(labels: Labels, distance: float) -> IntArray:
    outlines = []
    for image in labels.images:
        scene = scene_of(image)
        if not georeferenced(scene):
            raise LabelError(f"image {image.id}: has no georeference; split by image or scene")
        outlines.append(footprint(scene))
    shapes = np.array(outlines, object)
    latitude = np.abs(shapely.bounds(shapes)[:, [1, 3]]).max(axis=1) if len(shapes) else np.empty(0)
    # Degrees of longitude are shorter; the larger reach of the two keeps what is near together.
    reach = distance / _DEGREE / np.maximum(np.cos(np.radians(latitude)), 0.01)
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    near = shapely.box(x0 - reach, y0 - reach, x1 + reach, y1 + reach) if distance else shapes
    a, b = shapely.STRtree(shapes).query(near, predicate="intersects")
    return _components(len(shapes), a, b)


def _components(count: int, a: IntArray, b: IntArray) -> IntArray:
    """(count,) int64, the connected component of each node, numbered in their order."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    roots = [root(node) for node in range(count)]
    position = {node: k for k, node in enumerate(dict.fromkeys(roots))}
    return np.array([position[node] for node in roots], np.int64)


def _random(groups: IntArray, shares: FloatArray, rng: np.random.Generator) -> IntArray:
    """(groups,) int64, the part of each group; the numbers of images come as near to the shares as groups allow."""
    images = np.bincount(groups)
    order = rng.permutation(len(images))
    part = np.empty(len(images), np.int64)
    if (images == 1).all():
        ends = np.round(np.cumsum(shares) * len(images)).astype(np.int64)
        ends = _at_least_one(ends, len(images))
        part[order] = np.searchsorted(ends, np.arange(len(images)), side="right")
        return part
    # Large ones first: small ones then make up for what they leave.
    order = order[np.argsort(-images[order], kind="stable")]
    return _greedy(images[:, None].astype(np.float64), order, shares, part)


def _at_least_one(ends: IntArray, count: int) -> IntArray:
    """Ends of the parts, with at least one group in each."""
    parts = len(ends)
    low = np.arange(1, parts + 1)
    high = count - np.arange(parts - 1, -1, -1)
    return np.clip(np.maximum.accumulate(ends), low, high)


def _stratified(labels: Labels, groups: IntArray, shares: FloatArray, rng: np.random.Generator) -> IntArray:
    """(groups,) int64, the part of each group."""
    count = int(groups.max()) + 1
    table = np.zeros((count, len(labels.classes) + 1))
    known = labels.labels != ANY_CLASS
    np.add.at(table, (groups[labels.image[known]], labels.labels[known]), 1)
    # The last column are the images, so that those without boxes are divided, too.
    table[:, -1] = np.bincount(groups)
    totals = table.sum(axis=0)
    classes = np.where(table > 0, totals, np.inf)[:, :-1]
    rarest = np.where(np.isfinite(classes).any(axis=1), classes.argmin(axis=1), len(labels.classes))
    order = rng.permutation(count)
    key = np.lexsort((-table[order, rarest[order]], totals[rarest[order]]))
    return _greedy(table, order[key], shares, np.empty(count, np.int64), rarest)


def _greedy(
    table: FloatArray, order: IntArray, shares: FloatArray, part: IntArray, column: IntArray | None = None
) -> IntArray:
    """Give each group, in order, to a part by what parts lack of its rarest class, then of images.

    Of the parts that have room for the group it is the one that lacks the largest share, so that each has large and
    small ones. Where none has room, it is the one that lacks most: a small part would be filled many times over.
    """
    need = shares[:, None] * table.sum(axis=0)
    wanted = np.maximum(need, 1e-9)
    left, empty = len(order), set(range(len(shares)))
    for group in order.tolist():
        rare = -1 if column is None else int(column[group])
        room = need[:, rare] >= table[group, rare] - 1e-9
        if room.any():
            lacking = need / wanted
            first = np.where(room, lacking[:, rare], -np.inf)
        else:
            lacking, first = need, need[:, rare]
        best = int(np.lexsort((np.arange(len(shares)), -lacking[:, -1], -np.round(first, 9)))[0])
        if left <= len(empty) and best not in empty:
            best = min(empty)
        part[group] = best
        need[best] -= table[group]
        empty.discard(best)
        left -= 1
    return part
