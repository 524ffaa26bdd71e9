'use strict';
// Puts the page together.

async function start() {
  if (!document.createElement('canvas').getContext('webgl2')) throw new Error('WebGL 2 is switched off');
  const values = readValues(), columns = await readColumns(values.columns);
  const boxes = new Boxes(columns, values);
  const map = new BoxMap(byId('map'), values, boxes, (box) => panel.describe(box));
  const panel = new Panel(values, boxes, map);
  map.onMove = () => drawScale(map);
  panel.filter();
  drawScale(map);
  for (const [k, scene] of values.scenes.entries()) {
    if (scene.no_picture) continue;
    const [positions, texture, triangles] = ['positions', 'texture', 'triangles'].map((name) => columns[`${name}-${k}`]);
    await map.addPicture(k, columns[`picture-${k}`], {positions: placed(positions, values.step), texture, triangles});
  }
  map.redraw();
  byId('busy').remove();
  // For tests, and for the console of whoever is curious.
  window.geosod = {values, boxes, map, panel};
}

/** Whole steps as coordinates on the map. */
function placed(steps, step) {
  return Float64Array.from(steps, (value) => value * step);
}

start().catch((error) => {
  byId('busy').textContent = `The map cannot be shown: ${error.message}. It needs WebGL 2 and a browser of 2023 or later.`;
  console.error(error);
});
