'use strict';
// Reading what geosod put into the page.

/** The values that stand in the page as JSON. */
function readValues() {
  return JSON.parse(document.getElementById('values').textContent);
}

/** @returns {Promise<Uint8Array>} the bytes of gzipped base64 */
async function unpacked(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @returns {Promise<Object<string, TypedArray>>} the columns of the page by name */
async function readColumns(described) {
  const kinds = {Uint8Array, Uint16Array, Uint32Array, Int32Array, Float32Array};
  const columns = {};
  for (const [k, {name, kind}] of described.entries()) {
    const element = document.getElementById(`column-${k}`);
    columns[name] = new kinds[kind]((await unpacked(element.textContent)).buffer);
    element.remove();
  }
  return columns;
}
