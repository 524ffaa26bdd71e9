'use strict';
// The detections as arrays: which of them pass the filter, and what of them is drawn.

/** Boxes are drawn with outlines where all but this share of them have at least so many pixels a side, else as dots. */
const SMALL_SHARE = 0.25, OUTLINE_PIXELS = 8;
/** Boxes that are drawn with outlines at most. */
const MAX_OUTLINES = 20000;

class Boxes {
  /**
   * @param {Object<string, TypedArray>} columns of the page; `corners` holds x and y of the first corner of all
   *   boxes, then the differences of the other three to it, in whole steps
   * @param {{step: number, scenes: Array, classes: Array}} values of the page
   */
  constructor(columns, values) {
    this.columns = columns;
    this.count = columns.score.length;
    this.values = values;
    this.scene = new Uint32Array(this.count);
    values.scenes.forEach((scene, k) => this.scene.fill(k, scene.first, scene.first + scene.count));
    this.place(columns.corners, values.step);
    this.size = new Float32Array(this.count);
    for (let i = 0; i < this.count; i++) this.size[i] = Math.max(...this.sides(i));
    this.shown = Uint32Array.from({length: this.count}, (_, i) => i);
  }

  /** Corners and centres on the map, and the side that all but `SMALL_SHARE` of the boxes exceed. */
  place(steps, step) {
    const n = this.count;
    this.corners = new Float64Array(8 * n);
    this.centres = new Float64Array(2 * n);
    const sides = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const x = steps[i] * step, y = steps[n + i] * step;
      let left = x, right = x, bottom = y, top = y;
      this.corners[8 * i] = x;
      this.corners[8 * i + 1] = y;
      for (let c = 1; c < 4; c++) {
        const u = x + steps[2 * c * n + i] * step, v = y + steps[(2 * c + 1) * n + i] * step;
        this.corners[8 * i + 2 * c] = u;
        this.corners[8 * i + 2 * c + 1] = v;
        left = Math.min(left, u); right = Math.max(right, u);
        bottom = Math.min(bottom, v); top = Math.max(top, v);
      }
      this.centres[2 * i] = (left + right) / 2;
      this.centres[2 * i + 1] = (bottom + top) / 2;
      sides[i] = Math.max(right - left, top - bottom);
    }
    this.usualSide = n ? sides.slice().sort()[Math.floor(n * SMALL_SHARE)] : 1;
  }

  /** Width and height in metres, or where there is no georeference in pixels. */
  sides(i) {
    const {width_m: width, height_m: height, pixels} = this.columns, n = this.count;
    if (!Number.isNaN(width[i])) return [width[i], height[i]];
    return [pixels[2 * n + i] / 10, pixels[3 * n + i] / 10];
  }

  /**
   * Keep those that pass.
   * @param {{score: number, classes: Set<number>, low: number, high: number, scenes: Uint8Array}} filter `scenes`
   *   has 1 where the date of a scene passes
   */
  filter({score, classes, low, high, scenes}) {
    const passes = Uint8Array.from(this.values.classes, (_, k) => Number(classes.has(k)));
    const {score: scores, label} = this.columns, found = new Uint32Array(this.count);
    // Scores have 32 bits, and 0.3 is another number there.
    const least = Math.fround(score);
    let n = 0;
    for (let i = 0; i < this.count; i++) {
      const size = this.size[i];
      if (scores[i] >= least && passes[label[i]] && size >= low && size <= high && scenes[this.scene[i]]) found[n++] = i;
    }
    this.shown = found.slice(0, n);
  }

  /** How many of each class pass. */
  counts() {
    const counts = new Uint32Array(this.values.classes.length);
    for (const i of this.shown) counts[this.columns.label[i]]++;
    return counts;
  }

  /** Those that pass with their centre in a rectangle, or null where they are too many to be outlined. */
  inside([left, bottom, right, top]) {
    const found = [];
    for (const i of this.shown) {
      const x = this.centres[2 * i], y = this.centres[2 * i + 1];
      if (x >= left && x <= right && y >= bottom && y <= top) found.push(i);
      if (found.length > MAX_OUTLINES) return null;
    }
    return Uint32Array.from(found);
  }

  /**
   * Those that pass in a rectangle, but only the one of the highest score in each square cell: dots that would cover
   * each other cost time, and show nothing.
   */
  thinned([left, bottom, right, top], cell) {
    const first = Math.floor(left / cell), last = Math.floor(right / cell), width = last - first + 1;
    const low = Math.floor(bottom / cell), high = Math.floor(top / cell);
    const best = new Int32Array(width * (high - low + 1)).fill(-1), {score} = this.columns;
    for (const i of this.shown) {
      const column = Math.floor(this.centres[2 * i] / cell), row = Math.floor(this.centres[2 * i + 1] / cell);
      if (column < first || column > last || row < low || row > high) continue;
      const at = (row - low) * width + column - first;
      if (best[at] < 0 || score[i] > score[best[at]]) best[at] = i;
    }
    return Uint32Array.from(best.filter((i) => i >= 0));
  }

  /** (4 per box) colours, red, green, blue and opacity. */
  colours(indices, opacity) {
    const out = new Uint8Array(4 * indices.length);
    for (let k = 0; k < indices.length; k++) {
      const colour = this.values.classes[this.columns.label[indices[k]]].colour;
      out[4 * k] = colour[0]; out[4 * k + 1] = colour[1]; out[4 * k + 2] = colour[2]; out[4 * k + 3] = opacity;
    }
    return out;
  }

  /** (2 per box) centres. */
  points(indices) {
    const out = new Float64Array(2 * indices.length);
    for (let k = 0; k < indices.length; k++) {
      out[2 * k] = this.centres[2 * indices[k]];
      out[2 * k + 1] = this.centres[2 * indices[k] + 1];
    }
    return out;
  }

  /** (10 per box) corners, the first one again at the end. */
  rings(indices) {
    const out = new Float64Array(10 * indices.length);
    for (let k = 0; k < indices.length; k++) {
      const at = 8 * indices[k];
      for (let c = 0; c < 10; c++) out[10 * k + c] = this.corners[at + (c % 8)];
    }
    return out;
  }

  /** The identifier of a box in the output. */
  id(i) {
    const other = this.values.ids[i];
    if (other !== undefined) return other;
    const bytes = this.columns.id.subarray(8 * i, 8 * i + 8);
    const hash = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
    return `${this.values.scenes[this.scene[i]].id}-${hash}`;
  }

  /** [name, value] of everything that is known of a box. */
  attributes(i) {
    const {columns, values, count} = this, scene = values.scenes[this.scene[i]];
    const [width, height] = this.sides(i), unit = Number.isNaN(columns.width_m[i]) ? 'px' : 'm';
    const pixel = (k) => columns.pixels[k * count + i] / 10;
    const rows = [
      ['class', values.classes[columns.label[i]].name],
      ['score', columns.score[i].toFixed(3)],
      ['size', `${width.toPrecision(3)} × ${height.toPrecision(3)} ${unit}`],
      ['date', scene.date === null ? 'not known' : new Date(scene.date).toISOString().replace('.000Z', ' UTC').replace('T', ' ')],
      ['scene', scene.id],
      ['pixel', `x ${pixel(0).toFixed(1)}, y ${pixel(1).toFixed(1)}, ${pixel(2).toFixed(1)} × ${pixel(3).toFixed(1)}`],
    ];
    if (columns.lonlat[2 * i] !== -0x80000000) {
      rows.push(['lon, lat', `${(columns.lonlat[2 * i] / 1e7).toFixed(6)}, ${(columns.lonlat[2 * i + 1] / 1e7).toFixed(6)}`]);
    }
    if (columns.truncated[i]) rows.push(['truncated', 'touches the edge of the scene or nodata']);
    rows.push(['merged', `${columns.n_merged[i]} raw ${columns.n_merged[i] === 1 ? 'box' : 'boxes'}`]);
    if (columns.n_scenes) rows.push(['in', `${columns.n_scenes[i]} scenes`]);
    if (columns.level[i] !== 1) rows.push(['level', String(columns.level[i])]);
    rows.push(['id', this.id(i)]);
    return rows;
  }
}
