"use strict";
// What all parts of the page share: its data, the entries of its images, small helpers.

const data = JSON.parse(document.getElementById("data").textContent);
const images = data.images;
const byId = (id) => document.getElementById(id);

/** A new element with text and attributes; text is never read as HTML. */
function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  if (text !== "") made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A fraction as per cent, a dash where it is not defined. */
function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(digits);
}

/** Name of a label, 0 for the background. */
function labelName(label) {
  return label === 0 ? "background" : data.classes[label - 1];
}

/** True for the label of ignored pixels. */
function isIgnored(label) {
  return label === (data.classes.length > 254 ? 65535 : 255);
}

/** Colour of a label as [red, green, blue]; ignored pixels are white. */
function colourOf(label) {
  return isIgnored(label) ? [255, 255, 255] : data.palette[label % data.palette.length];
}

const entries = new Map(); // of the images seen last

/** Entry of an image by its number; waits while the rest of the file is read. */
async function entryOf(number) {
  if (entries.has(number)) return entries.get(number);
  let holder = byId(`i${number}`);
  while (!holder?.nextSibling && document.readyState === "loading") {
    await new Promise((resume) => setTimeout(resume, 50));
    holder = byId(`i${number}`);
  }
  const entry = JSON.parse(holder.textContent);
  if (entries.size > 200) entries.clear();
  entries.set(number, entry);
  return entry;
}

/** An image element, decoded. */
async function decoded(uri) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  return picture;
}

/** Grey layers of a stack: one array of height x width values each; of labels where it names them. */
async function layersOf(stack, count) {
  if (!stack.src || !count) return [];
  const [height, width] = stack.size;
  const picture = await decoded(stack.src);
  const canvas = new OffscreenCanvas(width, height * count);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, width, height * count).data;
  const { labels } = stack;
  return Array.from({ length: count }, (_, layer) => {
    const value = (_, at) => pixels[4 * (layer * height * width + at)];
    if (!labels) return Uint8Array.from({ length: height * width }, value);
    return Uint16Array.from({ length: height * width }, (_, at) => labels[value(_, at)]);
  });
}
