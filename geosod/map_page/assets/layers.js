'use strict';
// The map: deck.gl, and the layers that geosod draws with it.

const USED = ['PathLayer', 'ScatterplotLayer', 'SimpleMeshLayer', 'SolidPolygonLayer'];
const DARK = [16, 18, 22, 255], CHOSEN = [255, 255, 255, 255];
/** Boxes are drawn beyond what is in view by this share of it. */
const MARGIN = 0.15;
/** One dot is drawn in a cell of so many pixels; their number changes with so many steps for each doubling. */
const CELL_PIXELS = 5, ZOOM_STEPS = 2;
/** Pictures are shown as they are, without light and shade. */
const PLAIN = {ambient: 1, diffuse: 0, shininess: 1, specularColor: [0, 0, 0]};
/** Zoom at which a unit of the map is a pixel is 0; each step doubles it. */
const MAX_ZOOM = 8;

class BoxMap {
  /** @param {(box: number|null) => void} onBox called with the box that was clicked */
  constructor(container, values, boxes, onBox) {
    Object.assign(this, {container, values, boxes, onBox, chosen: null, drawn: null, visible: new Set()});
    this.pictures = values.scenes.map(() => null);
    this.view = fitted(values.bounds, container);
    this.deck = createDeck({container, tooltip: false, jsonInput: {
      controller: true,
      initialViewState: this.view,
      views: [{'@@type': 'OrthographicView', id: 'plane', flipY: false, controller: {inertia: 200}}],
      layers: USED.map((name) => ({'@@type': name, id: name, data: []})),
    }});
    // The bundle hands out classes only through its reader of JSON.
    this.layer = Object.fromEntries(this.deck.props.layers.map((layer) => [layer.id, layer.constructor]));
    this.ground = this.groundLayers();
    this.deck.setProps({
      onViewStateChange: ({viewState}) => this.moved(viewState),
      onResize: () => this.moved(this.view),
      onClick: ({index, layer}) => this.choose(layer && index >= 0 ? this.drawn.indices[index] : null),
      getCursor: ({isDragging, isHovering}) => (isDragging ? 'grabbing' : isHovering ? 'pointer' : 'grab'),
      layers: [],
    });
  }

  /** West, south, east and north of what is in view, with a margin as a share of its size. */
  window(margin = 0) {
    const {target: [x, y], zoom} = this.view, scale = 2 ** zoom;
    const width = this.container.clientWidth / scale * (0.5 + margin);
    const height = this.container.clientHeight / scale * (0.5 + margin);
    return [x - width, y - height, x + width, y + height];
  }

  moved(view) {
    this.view = view;
    if (this.isOutdated()) this.redraw();
    this.onMove?.();
  }

  /** Whether boxes must be chosen anew: others are in view, or it is nearer or farther. */
  isOutdated() {
    if (this.drawn === null || this.drawn.zoom !== this.zoomStep() || this.drawn.outlines !== this.outlined()) return true;
    const [left, bottom, right, top] = this.window(), [west, south, east, north] = this.drawn.window;
    return left < west || bottom < south || right > east || top > north;
  }

  /** The zoom in steps: between two steps dots stay the same. */
  zoomStep() {
    return Math.round(this.view.zoom * ZOOM_STEPS) / ZOOM_STEPS;
  }

  outlined() {
    return this.boxes.usualSide * 2 ** this.view.zoom >= OUTLINE_PIXELS;
  }

  /** Draw the boxes that pass the filter now. */
  refresh() {
    this.drawn = null;
    this.redraw();
  }

  redraw() {
    if (this.isOutdated()) this.drawn = this.chooseBoxes();
    const shown = (kind) => this.visible.has(kind);
    const layers = [
      ...(shown('pictures') ? this.pictures : []),
      ...this.ground.filter(({props}) => shown(props.kind)),
      ...(shown('boxes') ? this.drawn.layers : []),
      this.chosenLayer(),
    ];
    this.deck.setProps({layers: layers.filter(Boolean)});
  }

  chooseBoxes() {
    const outlines = this.outlined(), zoom = this.zoomStep(), window = this.window(MARGIN);
    const found = outlines ? this.boxes.inside(window) : null;
    if (found !== null) return {outlines, zoom, window, indices: found, layers: this.outlineLayers(found)};
    const indices = this.boxes.thinned(window, CELL_PIXELS / 2 ** zoom);
    return {outlines, zoom, window, indices, layers: [this.dots(indices)]};
  }

  dots(indices) {
    const attributes = {
      getPosition: {value: this.boxes.points(indices), size: 2},
      getFillColor: {value: this.boxes.colours(indices, 255), size: 4, normalized: true},
    };
    return new this.layer.ScatterplotLayer({
      id: 'dots', data: {length: indices.length, attributes}, pickable: true, radiusUnits: 'pixels', getRadius: 2.6,
      stroked: true, lineWidthUnits: 'pixels', getLineWidth: 0.8, getLineColor: DARK, antialiasing: true,
    });
  }

  outlineLayers(indices) {
    const n = indices.length, rings = this.boxes.rings(indices);
    const startIndices = Uint32Array.from({length: n}, (_, k) => 5 * k);
    const repeated = (colours) => {
      const out = new Uint8Array(20 * n);
      for (let k = 0; k < n; k++) for (let c = 0; c < 20; c++) out[20 * k + c] = colours[4 * k + (c % 4)];
      return {value: out, size: 4, normalized: true};
    };
    // Two triangles of each box, so that no library has to find them.
    const corners = Uint32Array.from({length: 6 * n}, (_, k) => 5 * Math.floor(k / 6) + [0, 1, 2, 0, 2, 3][k % 6]);
    const fill = new this.layer.SolidPolygonLayer({
      id: 'fills', pickable: true, _normalize: false, positionFormat: 'XY',
      data: {length: n, startIndices, attributes: {
        getPolygon: {value: rings, size: 2}, indices: {value: corners, size: 1},
        getFillColor: repeated(this.boxes.colours(indices, 40)),
      }},
    });
    const line = (id, width, colour) => new this.layer.PathLayer({
      id, _pathType: 'open', positionFormat: 'XY', widthUnits: 'pixels', getWidth: width, ...colour.props,
      data: {length: n, startIndices, attributes: {getPath: {value: rings, size: 2}, ...colour.attributes}},
    });
    return [
      fill,
      line('shadows', 3.6, {props: {getColor: [...DARK.slice(0, 3), 150]}}),
      line('outlines', 1.8, {attributes: {getColor: repeated(this.boxes.colours(indices, 255))}}),
    ];
  }

  chosenLayer() {
    if (this.chosen === null) return null;
    const ring = this.boxes.rings([this.chosen]), points = [0, 1, 2, 3, 4].map((c) => [ring[2 * c], ring[2 * c + 1]]);
    return new this.layer.PathLayer({
      id: 'chosen', data: [points], getPath: (path) => path, getColor: CHOSEN, widthUnits: 'pixels', getWidth: 4,
      jointRounded: true, capRounded: true,
    });
  }

  groundLayers() {
    const {scenes, ground, step} = this.values;
    const points = (ring) => Array.from({length: ring.length / 2}, (_, k) => [ring[2 * k] * step, ring[2 * k + 1] * step]);
    const fills = ground.map(({kind, colour, polygons}) => new this.layer.SolidPolygonLayer({
      id: kind, kind, data: polygons.map((rings) => rings.map(points)), getPolygon: (rings) => rings,
      getFillColor: [...colour, 140],
    }));
    const paths = scenes.flatMap((scene) => scene.footprint.flatMap((rings) => rings.map(points)));
    const footprints = new this.layer.PathLayer({
      id: 'footprints', kind: 'footprints', data: paths, getPath: (path) => path, getColor: [236, 238, 240, 220],
      widthUnits: 'pixels', getWidth: 1.2,
    });
    return [...fills, footprints];
  }

  /** Put the picture of a scene under everything else. */
  async addPicture(k, bytes, {positions, texture, triangles}) {
    const image = await createImageBitmap(new Blob([bytes], {type: 'image/webp'}));
    const vertices = positions.length / 2, [x, y] = [positions[0], positions[1]];
    const at = new Float32Array(3 * vertices), normals = new Float32Array(3 * vertices);
    for (let i = 0; i < vertices; i++) {
      at[3 * i] = positions[2 * i] - x;
      at[3 * i + 1] = positions[2 * i + 1] - y;
      normals[3 * i + 2] = 1;
    }
    this.pictures[k] = new this.layer.SimpleMeshLayer({
      id: `picture-${k}`, data: [null], getPosition: [x, y, 0], getColor: [255, 255, 255], texture: image, material: PLAIN,
      mesh: {
        attributes: {
          POSITION: {value: at, size: 3}, NORMAL: {value: normals, size: 3}, TEXCOORD_0: {value: texture, size: 2},
        },
        indices: {value: triangles, size: 1},
      },
    });
  }

  choose(box) {
    this.chosen = box ?? null;
    this.onBox(this.chosen);
    this.redraw();
  }

  /** Show a rectangle: west, south, east, north. */
  show(bounds) {
    this.view = fitted(bounds, this.container);
    this.deck.setProps({initialViewState: {...this.view}});
    this.moved(this.view);
  }
}

/** The view in which a rectangle fills a container but for a margin. */
function fitted([left, bottom, right, top], {clientWidth, clientHeight}) {
  const width = Math.max(right - left, 1e-9), height = Math.max(top - bottom, 1e-9);
  const zoom = Math.log2(Math.min(clientWidth / width, clientHeight / height) * 0.9);
  return {target: [(left + right) / 2, (bottom + top) / 2, 0], zoom: Math.min(zoom, MAX_ZOOM), minZoom: zoom - 4, maxZoom: MAX_ZOOM + 2};
}
