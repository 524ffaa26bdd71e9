"""Plain and slow counterparts of geosod.merging, and random scenes to test both on."""

import dataclasses
import math

import numpy as np

from geosod.detections import Detections
from geosod.merging.components import merge_group, settle
from geosod.merging.merge import merge
from geosod.merging.rule import MergeRule
from geosod.tiling.units import merge_tree


def plain_shared(a, b, sides, other_sides, rule) -> float:
    """The metric of two boxes of which at least one is flagged, from the areas of rectangles."""

    def grown(box, where):
        return [c + rule.margin * (1 if k > 1 else -1) * bool(where & (1 << k)) for k, c in enumerate(box)]

    def common(one, two):
        box = [max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])]
        return (box, area(box)) if box[2] > box[0] and box[3] > box[1] else (None, 0.0)

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    if bool(sides & 15) != bool(other_sides & 15):
        fragment, whole, touched = (a, b, sides & 15) if sides & 15 else (b, a, other_sides & 15)
        for k in range(4):
            if touched & (1 << k) and (whole[k] - fragment[k]) * (1 if k < 2 else -1) > 2 * rule.margin:
                return 0.0
        inter = common(grown(fragment, touched), grown(whole, 15))[1]
        return float(inter > 0 and inter >= 0.5 * area(grown(fragment, touched)))
    if not sides & 15:
        if (sides | other_sides) & 32:
            return 0.0
        if sides and other_sides:
            return plain_overlap(a, b, rule.metric)
        return common(a, b)[1] / area(a if sides else b)
    margins = [rule.margin] * 2
    for k in (0, 1):  # fragments on either side of an edge are extended to the same lines across it
        first, second = (a, b) if a[k] < b[k] else (b, a)
        facing = (sides if first is a else other_sides) & (4 << k) and (other_sides if first is a else sides) & (1 << k)
        if facing and -rule.gap < first[k + 2] - second[k] <= 0 and common(a, b)[0] is None:
            a, b = ([*x[:k], 0.0, *x[k + 1 : k + 2], 1.0, *x[k + 3 :]] for x in (a, b))
            sides, other_sides = sides & ~(5 << k), other_sides & ~(5 << k)
            margins[k] = 0.0
            break
    ground = [-1e18, -1e18, 1e18, 1e18]
    for box, side in ((a, sides), (b, other_sides)):
        ground, _ = common(ground, [c if side & (1 << k) else (-1e18, 1e18)[k > 1] for k, c in enumerate(box)])
        if ground is None:
            return 0.0
    overlap, inter = common(a, b)
    if not inter > 0:
        return 0.0

    def area_within_margin(box):
        """The area on the common ground, with small differences between sides ignored."""
        seen = common(box, ground)[0]
        sides = (max(overlap[k + 2] - overlap[k], seen[k + 2] - seen[k] - 2 * margins[k]) for k in (0, 1))
        return math.prod(sides)

    one, two = area_within_margin(a), area_within_margin(b)
    return float(inter >= 0.7 * max(one, two))


def overlap_matrix(d: Detections, rule: MergeRule) -> np.ndarray:
    """(N, N) float64, the metric of each pair of boxes, 0 where classes differ or no area is shared."""
    b = d.boxes
    low = np.maximum(b[:, None, :2], b[None, :, :2])
    high = np.minimum(b[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(b[:, 2:] - b[:, :2], axis=1)
    smaller = np.minimum(area[:, None], area[None, :])
    union = area[:, None] + area[None, :] - inter
    with np.errstate(invalid="ignore", divide="ignore"):
        metric = np.where(inter > 0, inter / (smaller if rule.metric == "ios" else union), 0.0)
    for i in np.flatnonzero(d.fragment) if rule.borders else ():
        for j in range(len(d)):
            if area[i] > 0 and area[j] > 0 and i != j:
                value = plain_shared(b[i].tolist(), b[j].tolist(), int(d.fragment[i]), int(d.fragment[j]), rule)
                metric[i, j] = metric[j, i] = value
    same = rule.class_agnostic | (d.labels[:, None] == d.labels[None, :])
    if rule.across_levels:
        same &= (d.level[:, None] != d.level[None, :]) | np.eye(len(d), dtype=bool)
    return np.where(same, metric, 0.0)


def limits(d: Detections, rule: MergeRule) -> np.ndarray:
    """(N, N) float64, the threshold of each pair of boxes."""
    own = np.array([dict(rule.per_class).get(int(label), rule.threshold) for label in d.labels])
    return np.maximum(own[:, None], own[None, :])


def match_matrix(d: Detections, rule: MergeRule, overlap: np.ndarray | None = None) -> np.ndarray:
    """(N, N) bool, the edges of the match graph, computed from their definition."""
    overlap = overlap_matrix(d, rule) if overlap is None else overlap
    return (overlap > 0) & (overlap >= limits(d, rule))


def ranking(d: Detections, rule: MergeRule) -> list[int]:
    def key(i):
        tail = (d.labels[i], d.truncated[i], d.fragment[i], d.n_merged[i], d.level[i])
        return (rule.borders and d.fragment[i] > 0, -d.scores[i], *d.boxes[i], *tail)

    return sorted(range(len(d)), key=key)


def whole_nms(d: Detections, rule: MergeRule, overlap):
    match = match_matrix(d, rule, overlap)
    left, groups = ranking(d, rule), []
    while left:
        best, *rest = left
        groups.append([best, *(i for i in rest if match[best, i])])
        left = [i for i in rest if not match[best, i]]
    return groups, {}


def whole_nmm(d: Detections, rule: MergeRule, overlap):
    match, groups, group_of = match_matrix(d, rule, overlap), [], {}
    order = ranking(d, rule)
    for i in order:
        if i not in group_of:
            group_of[i] = len(groups)
            groups.append([i])
        elif rule.method == "greedy_nmm":
            continue
        for j in order:
            if match[i, j] and j not in group_of:
                group_of[j] = group_of[i]
                groups[group_of[i]].append(j)
    return groups, hulls(d, groups)


def hulls(d: Detections, groups):
    return {
        "boxes": [[*d.boxes[g, :2].min(0), *d.boxes[g, 2:].max(0)] for g in groups],
        "scores": [d.scores[g].max() for g in groups],
        "truncated": [d.truncated[g].any() for g in groups],
    }


def whole_soft_nms(d: Detections, rule: MergeRule, overlap):
    limit = limits(d, rule)
    score, left = d.scores.astype(float).tolist(), ranking(d, rule)
    strongest, groups, dropped = {}, {}, []
    while left:
        best = min(left, key=lambda i: (rule.borders and d.fragment[i] > 0, -score[i]))
        left.remove(best)
        if score[best] < rule.min_score:
            continue
        groups[best] = [best]
        for i in list(left):
            o = float(overlap[best, i])
            if o == 0 or (rule.decay == "linear" and o < limit[best, i]):
                continue
            factor = math.exp(-(o * o) / rule.sigma) if rule.decay == "gaussian" else 1 - o
            score[i] *= factor
            if factor < strongest.get(i, (1.0, None))[0]:
                strongest[i] = factor, best
            if score[i] < rule.min_score:
                left.remove(i)
                dropped.append(i)
    for i in dropped:
        groups[strongest[i][1]].append(i)
    return list(groups.values()), {"scores": [score[i] for i in groups]}


def plain_overlap(a, b, metric) -> float:
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    one, two = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inter / (min(one, two) if metric == "ios" else one + two - inter) if inter > 0 else 0.0


def whole_wbf(d: Detections, rule: MergeRule, _):
    own = [dict(rule.per_class).get(int(label), rule.threshold) for label in d.labels]
    clusters = []
    for i in ranking(d, rule):
        box, weight, found = d.boxes[i].tolist(), float(d.scores[i]), (0.0, None)
        for c in clusters:
            seed = c["rows"][0]
            value = plain_overlap(box, c["box"], rule.metric)
            same = rule.class_agnostic or d.labels[seed] == d.labels[i]
            same &= not (rule.across_levels and d.level[i] in d.level[c["rows"]])
            if same and value >= max(own[i], own[seed]) and value > found[0]:
                found = value, c
        c = found[1]
        if c is None:
            clusters.append({"box": box, "weight": weight, "rows": [i]})
            continue
        c["weight"] += weight
        share = weight / c["weight"] if c["weight"] > 0 else 0.0
        moved = (f + share * (b - f) for f, b in zip(c["box"], box, strict=True))
        c["box"] = [sorted([f, m, b])[1] for f, m, b in zip(c["box"], moved, box, strict=True)]
        c["rows"].append(i)
    return [c["rows"] for c in clusters], {
        "boxes": [c["box"] for c in clusters],
        "scores": [c["weight"] / len(c["rows"]) for c in clusters],
        "truncated": [d.truncated[c["rows"]].any() for c in clusters],
    }


WHOLE = {
    "nms": whole_nms,
    "nmm": whole_nmm,
    "greedy_nmm": whole_nmm,
    "soft_nms": whole_soft_nms,
    "wbf": whole_wbf,
}


def plain_merge(d: Detections, rule: MergeRule, overlap: np.ndarray | None = None) -> Detections:
    """Merge whole boxes by the method; assign fragments to the best-ranked whole box they match, or stitch them."""
    is_fragment, excluded = (d.fragment & 15 > 0) & rule.borders, (d.fragment & 47 == 32) & rule.borders
    excluded |= (d.fragment & 63 == 48) & rule.borders
    rows = np.flatnonzero(~is_fragment & ~excluded)
    overlap = overlap_matrix(d, rule) if overlap is None else overlap
    groups, values = WHOLE[rule.method](d[rows], rule, overlap[np.ix_(rows, rows)])
    groups = [rows[g].tolist() for g in groups]
    kept = Detections.concat([d[[g[0] for g in groups]].with_columns(**values), d[np.flatnonzero(excluded)]])
    groups += [[int(i)] for i in np.flatnonzero(excluded)]
    match, order = match_matrix(d, rule, overlap), ranking(d, rule)
    group_of = {i: k for k, g in enumerate(groups) for i in g}
    left = []
    for f in (i for i in order if is_fragment[i]):
        taker = next((i for i in order if match[i, f] and i in group_of and not is_fragment[i]), None)
        left.append(f) if taker is None else groups[group_of[taker]].append(f)
    stitched_groups = []
    while left:
        bunch, ahead = [left[0]], [left[0]]
        while ahead:
            some = [j for j in left if j not in bunch and match[ahead[0], j]]
            bunch, ahead = bunch + some, ahead[1:] + some
        stitched_groups.append(sorted(bunch, key=order.index))
        left = [i for i in left if i not in bunch]
    hull = hulls(d, stitched_groups)
    sides = [
        sum(1 << k for k in range(4) if any(d.boxes[i, k] == box[k] and d.fragment[i] & (1 << k) for i in bunch))
        for bunch, box in zip(stitched_groups, hull["boxes"], strict=True)
    ]
    stitched = d[[bunch[0] for bunch in stitched_groups]].with_columns(**hull, fragment=np.array(sides, np.uint8))
    merged = Detections.concat([kept, stitched])
    merged = merged.with_columns(n_merged=[int(d.n_merged[g].sum()) for g in groups + stitched_groups])
    return merged[merged.canonical_order()]


def plain_nms(d: Detections, rule: MergeRule) -> Detections:
    return plain_merge(d, dataclasses.replace(rule, method="nms"))


def merged_by(d: Detections, rule: MergeRule) -> Detections:
    """`geosod.merge` with the fields of a rule."""
    known = with_known_classes(d, rule)
    return merge(d, **{f.name: getattr(known, f.name) for f in dataclasses.fields(known)})


def with_known_classes(d: Detections, rule: MergeRule) -> MergeRule:
    """The rule without thresholds of classes that no box has, which the public functions refuse."""
    present = set(d.labels.tolist())
    return dataclasses.replace(rule, per_class=[(k, t) for k, t in rule.per_class if k in present])


def plain_components(d: Detections, rule: MergeRule, seeds: np.ndarray) -> np.ndarray:
    match, reached = match_matrix(d, rule), seeds.copy()
    while True:
        grown = reached | match[reached].any(axis=0)
        if (grown == reached).all():
            return reached
        reached = grown


def columns(d: Detections) -> dict[str, bytes]:
    """Every bit of every column."""
    return {f.name: getattr(d, f.name).tobytes() for f in dataclasses.fields(d)}


def some_sides(rng, n, share=0.3) -> np.ndarray:
    """(n,) uint8, fragments of any sides, whole boxes, and some in the edge margin or excluded."""
    return np.where(rng.random(n) < share, np.append(np.arange(1, 17), 32)[rng.integers(0, 17, n)], 0).astype(np.uint8)


def random_boxes(rng, n, *, extent=100.0, sizes=(1.0, 20.0), labels=2, whole_numbers=False) -> Detections:
    side = np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]), (n, 2)))
    low = rng.uniform(0, extent, (n, 2))
    boxes = np.concatenate([low, low + side], axis=1)
    return Detections(
        boxes=np.round(boxes) if whole_numbers else boxes,
        scores=rng.choice(np.linspace(0.1, 0.9, 5), n) if whole_numbers else rng.random(n),
        labels=rng.integers(0, labels, n),
        fragment=some_sides(rng, n),
        truncated=rng.random(n) < 0.2,
        n_merged=rng.integers(1, 4, n),
    )


def tiled_scene(
    rng,
    grid,
    *,
    objects,
    size,
    jitter,
    chains=0,
    clutter=0,
    labels=2,
    scores=6,
    whole_numbers=False,
    near=0.0,
    edge_margin=0.0,
):
    """Boxes that a detector might return for each tile of a grid: objects clipped to it, and clutter.

    Returns a list with the Detections of each tile in reading order, clipped, with their fragment flags: sides within
    `near` of their tile's edge touch it, and boxes within `edge_margin` of an edge are flagged as such.
    """
    centre = rng.uniform(0, (grid.width, grid.height), (objects, 2))
    half = rng.uniform(size[0], size[1], (objects, 2)) / 2
    things, kinds = np.concatenate([centre - half, centre + half], 1), rng.integers(0, labels, objects)
    for _ in range(chains):
        step, y = rng.uniform(0.1, 0.35) * size[1], rng.uniform(0, grid.height)
        x = np.arange(0, grid.width, step)
        links = np.stack([x, np.full_like(x, y), x + size[1], np.full_like(x, y + size[1])], 1)
        flip = links[:, [1, 0, 3, 2]] if rng.random() < 0.5 else links
        things, kinds = np.concatenate([things, flip]), np.concatenate([kinds, np.zeros(len(x), kinds.dtype)])
    tiles = []
    for col, row, width, height in grid.windows_array():
        boxes, label = things + rng.normal(0, jitter, things.shape), kinds
        wild = rng.uniform((col, row) * 2, (col + width, row + height) * 2, (rng.integers(0, clutter + 1), 4))
        boxes = np.concatenate([boxes, np.sort(wild.reshape(-1, 2, 2), axis=1).reshape(-1, 4)])
        label = np.concatenate([label, rng.integers(0, labels, len(wild))])
        boxes = np.round(boxes) if whole_numbers else boxes
        boxes = np.clip(boxes, (col, row) * 2, (col + width, row + height) * 2)
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (rng.random(len(boxes)) < 0.9)
        boxes, label = boxes[solid], label[solid]
        inside = np.array([col > 0, row > 0, col + width < grid.width, row + height < grid.height])
        edges = np.array([col, row, col + width, row + height])
        touching = (np.abs(boxes - edges) <= near) & inside
        fragment = touching @ np.array([1, 2, 4, 8])
        fragment[(fragment == 0) & ((np.abs(boxes - edges) <= edge_margin) & inside).any(axis=1)] = 16
        score = rng.integers(1, scores + 1, len(boxes)) / scores
        level = 1 / (1 + np.arange(len(boxes)) % 3)
        tiles.append(Detections(boxes=boxes, scores=score, labels=label, fragment=fragment, level=level))
    return tiles


def by_unit(tiles, grid, units) -> dict[str, Detections]:
    """The boxes of each unit's tiles."""
    number = {(col, row): i for i, (col, row, _, _) in enumerate(grid.windows_array().tolist())}
    return {u.id: Detections.concat([tiles[number[w.col, w.row]] for w in u.windows]) for u in units}


def staged(tiles, grid, units, rule, *, fan_in, rng) -> tuple[Detections, int]:
    """Merge unit by unit and up the tree, in random order; the result and the number of boxes shipped."""
    boxes, done, pending = by_unit(tiles, grid, units), [], {}
    for i in rng.permutation(len(units)):
        unit = units[i]
        part = settle(boxes[unit.id][rng.permutation(len(boxes[unit.id]))], unit.core, rule)
        done.append(part.final)
        pending[unit.id] = part.pending
    shipped = sum(map(len, pending.values()))
    for level in merge_tree(units, grid, fan_in=fan_in):
        above = {}
        for i in rng.permutation(len(level)):
            children = [pending[c] for c in level[i].children]
            shuffled = [children[c] for c in rng.permutation(len(children))]
            part = merge_group(shuffled, level[i].core, rule, whole=level[i].whole)
            done.append(part.final)
            above[level[i].id] = part.pending
        pending = above
    assert sum(map(len, pending.values())) == 0, "the last core is the whole scene"
    merged = Detections.concat(done)
    return merged[merged.canonical_order()], shipped


def survivors_again(tiles, grid, units, rule, **_) -> tuple[Detections, int]:
    """The tempting wrong way: NMS in each unit, then NMS over the survivors."""
    boxes = by_unit(tiles, grid, units)
    kept = Detections.concat([settle(boxes[u.id], u.core, rule, whole=True).final for u in units])
    return settle(kept, units[0].core, rule, whole=True).final, len(kept)
