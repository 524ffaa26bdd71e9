"""Plain and slow counterparts of geosod.merging, and scenes to try both on."""

import dataclasses
import math

import numpy as np

from geosod.merging import MergeRule, merge, merge_group, settle
from geosod.tiling.units import merge_tree
from geosod.types import Detections


def overlap_matrix(d: Detections, rule: MergeRule) -> np.ndarray:
    """(N, N) float64, the metric of each pair of boxes, 0 where classes differ or no area is shared."""
    b = d.boxes
    low = np.maximum(b[:, None, :2], b[None, :, :2])
    high = np.minimum(b[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(b[:, 2:] - b[:, :2], axis=1)
    smaller = np.minimum(area[:, None], area[None, :])
    union = area[:, None] + area[None, :] - inter
    one, two = d.fragment[:, None], d.fragment[None, :]
    whole = np.where((rule.metric == "ios") | (one & two), smaller, union)
    whole = np.where(one & ~two, area[:, None], np.where(two & ~one, area[None, :], whole))
    with np.errstate(invalid="ignore", divide="ignore"):
        metric = inter / whole
    same = rule.class_agnostic | (d.labels[:, None] == d.labels[None, :])
    return np.where(same & (inter > 0), metric, 0.0)


def limits(d: Detections, rule: MergeRule) -> np.ndarray:
    """(N, N) float64, the threshold of each pair of boxes."""
    own = np.array([dict(rule.per_class).get(int(label), rule.threshold) for label in d.labels])
    return np.maximum(own[:, None], own[None, :])


def match_matrix(d: Detections, rule: MergeRule) -> np.ndarray:
    """(N, N) bool, the edges of the match graph, written down from their definition."""
    return overlap_matrix(d, rule) >= limits(d, rule)


def ranking(d: Detections) -> list[int]:
    def key(i):
        tail = (d.labels[i], d.cut[i], d.fragment[i], d.n_merged[i], d.level[i])
        return (d.fragment[i], -d.scores[i], *d.boxes[i], *tail)

    return sorted(range(len(d)), key=key)


def plain_nms(d: Detections, rule: MergeRule) -> Detections:
    match = match_matrix(d, rule)
    left, rows, counts = ranking(d), [], []
    while left:
        best, *rest = left
        gone = [i for i in rest if match[best, i]]
        rows.append(best)
        counts.append(int(d.n_merged[best]) + sum(int(d.n_merged[i]) for i in gone))
        left = [i for i in rest if not match[best, i]]
    kept = d[rows].with_columns(n_merged=counts)
    return kept[kept.canonical_order()]


def plain_nmm(d: Detections, rule: MergeRule) -> Detections:
    match, groups, group_of = match_matrix(d, rule), [], {}
    order = ranking(d)
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
    united = d[[group[0] for group in groups]].with_columns(
        boxes=[[*d.boxes[g, :2].min(0), *d.boxes[g, 2:].max(0)] for g in groups],
        scores=[d.scores[g].max() for g in groups],
        cut=[d.cut[g].any() for g in groups],
        n_merged=[d.n_merged[g].sum() for g in groups],
    )
    return united[united.canonical_order()]


def plain_soft_nms(d: Detections, rule: MergeRule) -> Detections:
    overlap, limit = overlap_matrix(d, rule), limits(d, rule)
    score, left = d.scores.astype(float).tolist(), ranking(d)
    strongest, counts, dropped = {}, {}, []
    while left:
        best = min(left, key=lambda i: (d.fragment[i], -score[i]))
        left.remove(best)
        if score[best] < rule.min_score:
            continue
        counts[best] = int(d.n_merged[best])
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
        counts[strongest[i][1]] += int(d.n_merged[i])
    rows = list(counts)
    kept = d[rows].with_columns(scores=np.array(score)[rows], n_merged=list(counts.values()))
    return kept[kept.canonical_order()]


def plain_overlap(a, b, metric) -> float:
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    one, two = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return inter / (min(one, two) if metric == "ios" else one + two - inter) if inter > 0 else 0.0


def plain_wbf(d: Detections, rule: MergeRule) -> Detections:
    """Clusters of whole boxes; fragments then go to the best-ranked whole box that they match, or to each other."""
    own = [dict(rule.per_class).get(int(label), rule.threshold) for label in d.labels]
    order, clusters, cluster_of = ranking(d), [], {}
    for i in (i for i in order if not d.fragment[i]):
        box, weight, found = d.boxes[i].tolist(), float(d.scores[i]), (0.0, None)
        for c in clusters:
            seed = c["rows"][0]
            value = plain_overlap(box, c["box"], rule.metric)
            same = rule.class_agnostic or d.labels[seed] == d.labels[i]
            if same and value >= max(own[i], own[seed]) and value > found[0]:
                found = value, c
        c = found[1]
        if c is None:
            c = {"box": box, "weight": weight, "rows": [i], "pieces": []}
            clusters.append(c)
        else:
            c["weight"] += weight
            share = weight / c["weight"] if c["weight"] > 0 else 0.0
            moved = (f + share * (b - f) for f, b in zip(c["box"], box, strict=True))
            c["box"] = [sorted([f, m, b])[1] for f, m, b in zip(c["box"], moved, box, strict=True)]
            c["rows"].append(i)
        cluster_of[i] = c
    match = match_matrix(d, rule)
    for i in (i for i in order if d.fragment[i]):
        taker = next(
            (
                j
                for j in order
                if match[i, j] and j in cluster_of and (cluster_of[j]["rows"][0] == j or not d.fragment[j])
            ),
            None,
        )
        if taker is None:
            cluster_of[i] = {"box": d.boxes[i].tolist(), "weight": float(d.scores[i]), "rows": [i], "pieces": []}
            clusters.append(cluster_of[i])
        else:
            cluster_of[i] = cluster_of[taker]
            cluster_of[taker]["pieces"].append(i)
    fused = d[[c["rows"][0] for c in clusters]].with_columns(
        boxes=[c["box"] for c in clusters],
        scores=[c["weight"] / len(c["rows"]) for c in clusters],
        cut=[d.cut[c["rows"]].any() for c in clusters],
        n_merged=[d.n_merged[c["rows"] + c["pieces"]].sum() for c in clusters],
    )
    return fused[fused.canonical_order()]


PLAIN = {"nms": plain_nms, "nmm": plain_nmm, "greedy_nmm": plain_nmm, "soft_nms": plain_soft_nms, "wbf": plain_wbf}


def plain_merge(d: Detections, rule: MergeRule) -> Detections:
    return PLAIN[rule.method](d, rule)


def merged_by(d: Detections, rule: MergeRule) -> Detections:
    """`geosod.merge` with the fields of a rule."""
    return merge(d, **{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)})


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


def random_boxes(rng, n, *, extent=100.0, sizes=(1.0, 20.0), labels=2, whole_numbers=False) -> Detections:
    side = np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]), (n, 2)))
    low = rng.uniform(0, extent, (n, 2))
    boxes = np.concatenate([low, low + side], axis=1)
    return Detections(
        boxes=np.round(boxes) if whole_numbers else boxes,
        scores=rng.choice(np.linspace(0.1, 0.9, 5), n) if whole_numbers else rng.random(n),
        labels=rng.integers(0, labels, n),
        fragment=rng.random(n) < 0.2,
        cut=rng.random(n) < 0.2,
        n_merged=rng.integers(1, 4, n),
    )


def tiled_scene(rng, grid, *, objects, size, jitter, chains=0, clutter=0, labels=2, scores=6, whole_numbers=False):
    """Boxes that a detector might give for each tile of a grid: objects clipped to it, and clutter.

    Returns a list with the Detections of each tile in reading order, clipped, with their fragment flags.
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
        x0, y0, x1, y1 = boxes.T
        fragment = ((x0 == col) & (col > 0)) | ((x1 == col + width) & (col + width < grid.width))
        fragment |= ((y0 == row) & (row > 0)) | ((y1 == row + height) & (row + height < grid.height))
        score = rng.integers(1, scores + 1, len(boxes)) / scores
        tiles.append(Detections(boxes=boxes, scores=score, labels=label, fragment=fragment))
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
        done.append(part.settled)
        pending[unit.id] = part.open
    shipped = sum(map(len, pending.values()))
    for level in merge_tree(units, grid, fan_in=fan_in):
        above = {}
        for i in rng.permutation(len(level)):
            children = [pending[c] for c in level[i].children]
            shuffled = [children[c] for c in rng.permutation(len(children))]
            part = merge_group(shuffled, level[i].core, rule, whole=level[i].whole)
            done.append(part.settled)
            above[level[i].id] = part.open
        pending = above
    assert sum(map(len, pending.values())) == 0, "the last core is the whole scene"
    merged = Detections.concat(done)
    return merged[merged.canonical_order()], shipped


def survivors_again(tiles, grid, units, rule, **_) -> tuple[Detections, int]:
    """The tempting wrong way: NMS in each unit, then NMS over what survived."""
    boxes = by_unit(tiles, grid, units)
    kept = Detections.concat([settle(boxes[u.id], u.core, rule, whole=True).settled for u in units])
    return settle(kept, units[0].core, rule, whole=True).settled, len(kept)
