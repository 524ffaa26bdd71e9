'use strict';
// The panel beside the map. All text is set as text: names of classes and scenes are anybody's.

const byId = (id) => document.getElementById(id);
const grouped = (number) => number.toLocaleString('en');
/** Scenes that the list shows. */
const LISTED = 200;

/** An element with text and attributes. */
function element(tag, text = '', attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A row with a checkbox, a colour and a text. */
function tick(text, colour, checked, onChange) {
  const row = element('label', '', {class: 'tick'}), box = element('input', '', {type: 'checkbox'});
  box.checked = checked;
  box.addEventListener('change', () => onChange(box.checked));
  row.append(box);
  if (colour) {
    const swatch = element('i', '', {class: 'swatch'});
    swatch.style.background = `rgb(${colour.join(' ')})`;
    row.append(swatch);
  }
  const name = element('span', text);
  row.append(name);
  return {row, box, name};
}

class Panel {
  constructor(values, boxes, map) {
    Object.assign(this, {values, boxes, map, classes: new Set(values.classes.keys())});
    this.addNotes();
    this.addClasses();
    this.addLayers();
    this.addScenes();
    this.setUpFilter();
    byId('fold').addEventListener('click', () => this.fold(byId('fold').getAttribute('aria-expanded') === 'true'));
    byId('close').addEventListener('click', () => map.choose(null));
    byId('about').textContent = `geosod ${values.version}. Map: ${values.library}.`;
    if (window.innerWidth < 640) this.fold(true);
  }

  addNotes() {
    for (const note of this.values.notes) byId('notes').append(element('p', note, {class: 'note'}));
  }

  addClasses() {
    this.rows = this.values.classes.map(({name, colour}, k) => {
      const made = tick(name, colour, true, (on) => {
        if (on) this.classes.add(k); else this.classes.delete(k);
        this.filter();
      });
      made.count = element('b');
      made.row.append(made.count);
      byId('classes').append(made.row);
      return made;
    });
  }

  addLayers() {
    for (const {kind, text, colour, on} of this.values.layers) {
      const {row} = tick(text, colour, on, (checked) => {
        if (checked) this.map.visible.add(kind); else this.map.visible.delete(kind);
        this.map.redraw();
      });
      if (on) this.map.visible.add(kind);
      byId('shown').append(row);
    }
  }

  addScenes() {
    byId('scenes-title').textContent = `Scenes (${grouped(this.values.scenes.length)})`;
    byId('scene-search').hidden = this.values.scenes.length < 10;
    byId('scene-search').addEventListener('input', () => this.listScenes(byId('scene-search').value));
    this.listScenes('');
  }

  listScenes(search) {
    const found = this.values.scenes.filter(({id}) => id.toLowerCase().includes(search.toLowerCase()));
    byId('scenes').replaceChildren(...found.slice(0, LISTED).map((scene) => {
      const row = element('li'), name = element('button', scene.id, {class: 'link', title: 'Show this scene'});
      name.addEventListener('click', () => this.map.show(scene.bounds));
      const about = [`${grouped(scene.count)} of ${grouped(scene.rows)} boxes`];
      if (scene.inspected_km2 !== null) about.push(`${scene.inspected_km2.toPrecision(3)} km² inspected`);
      if (scene.no_picture) about.push('footprint only');
      row.append(name, element('span', about.join(', '), {class: 'faint', title: scene.no_picture}));
      if (scene.href) row.append(element('a', 'GeoParquet', {href: scene.href}));
      return row;
    }));
    if (found.length > LISTED) byId('scenes').append(element('li', `and ${grouped(found.length - LISTED)} more`, {class: 'faint'}));
  }

  setUpFilter() {
    const {scenes, threshold, unit} = this.values, dates = scenes.map(({date}) => date).filter((date) => date !== null);
    byId('score').min = byId('score').value = Math.floor(threshold * 100) / 100;
    byId('size-unit').textContent = `${unit}, the longer side`;
    byId('dates').hidden = dates.length === 0;
    byId('undated-row').hidden = dates.length === scenes.length;
    if (dates.length) {
      const days = [Math.min(...dates), Math.max(...dates)].map((time) => new Date(time).toISOString().slice(0, 10));
      for (const name of ['date-low', 'date-high']) [byId(name).min, byId(name).max] = days;
    }
    for (const name of ['score', 'size-low', 'size-high', 'date-low', 'date-high', 'undated']) {
      byId(name).addEventListener('input', () => this.filter());
    }
    byId('reset').addEventListener('click', () => this.reset());
  }

  reset() {
    for (const name of ['size-low', 'size-high', 'date-low', 'date-high']) byId(name).value = '';
    byId('score').value = byId('score').min;
    byId('undated').checked = true;
    this.classes = new Set(this.values.classes.keys());
    for (const {box} of this.rows) box.checked = true;
    this.filter();
  }

  /** Apply what the panel asks for. */
  filter() {
    const number = (id, otherwise) => (byId(id).value === '' ? otherwise : Number(byId(id).value));
    const day = (id, otherwise) => (byId(id).value === '' ? otherwise : Date.parse(byId(id).value));
    const first = day('date-low', -Infinity), last = day('date-high', Infinity) + 86400e3;
    const scenes = Uint8Array.from(this.values.scenes, ({date}) => Number(
      date === null ? byId('undated').checked : date >= first && date < last));
    const score = Number(byId('score').value);
    // At its minimum the slider lets everything pass, since its steps are coarser than scores.
    const atMinimum = byId('score').value === byId('score').min;
    this.boxes.filter({
      score: atMinimum ? -Infinity : score, classes: this.classes, scenes,
      low: number('size-low', -Infinity), high: number('size-high', Infinity),
    });
    byId('score-value').textContent = score.toFixed(2);
    this.showCounts();
    this.map.refresh();
  }

  showCounts() {
    const {shown, count} = this.boxes, counts = this.boxes.counts();
    byId('count').textContent = shown.length === count
      ? `${grouped(count)} boxes` : `${grouped(shown.length)} of ${grouped(count)} boxes`;
    this.rows.forEach((row, k) => { row.count.textContent = grouped(counts[k]); });
  }

  fold(folded) {
    document.body.classList.toggle('folded', folded);
    byId('fold').setAttribute('aria-expanded', String(!folded));
    byId('fold').textContent = folded ? 'Show' : 'Hide';
  }

  /** The attributes of a box, or none. */
  describe(box) {
    byId('details').hidden = box === null;
    if (box === null) return;
    const rows = this.boxes.attributes(box).flatMap(([name, value]) => [element('dt', name), element('dd', value)]);
    const {href} = this.values.scenes[this.boxes.scene[box]];
    if (href) {
      const link = element('dd');
      link.append(element('a', 'GeoParquet', {href}));
      rows.push(element('dt', 'file'), link);
    }
    byId('attributes').replaceChildren(...rows);
  }
}

/** A bar of a round length: 1, 2 or 5 times a power of ten. */
function drawScale({view, values}) {
  const unit = values.mercator === null ? 1 : 1 / Math.cosh(view.target[1] / values.mercator);
  const pixel = unit / 2 ** view.zoom, longest = 140 * pixel, power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((factor) => factor * power).find((value) => value <= longest * 1.000001);
  byId('scale').style.width = `${length / pixel}px`;
  byId('scale').firstElementChild.textContent = withUnit(length, values.unit);
}

function withUnit(length, unit) {
  const short = (value) => Number(value.toPrecision(3)).toLocaleString('en');
  if (unit === 'px') return `${short(length)} px`;
  if (length >= 1000) return `${short(length / 1000)} km`;
  return length >= 1 ? `${short(length)} m` : `${short(length * 100)} cm`;
}
