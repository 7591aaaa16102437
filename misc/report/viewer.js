// One image: its maps, and its mask recoloured at any threshold.

const viewer = { number: -1, opener: null, entry: null, photo: null, maps: [], masks: [], threshold: 0 };

async function openViewer(number, opener) {
  if (opener) viewer.opener = opener;
  const entry = await entryOf(number);
  const [height, width] = entry.maps.size;
  const count = entry.maps.layers.length * entry.keys.length;
  const [photo, maps, masks] = await Promise.all([decoded(entry.photo), layersOf(entry.maps, count),
    layersOf(entry.masks, entry.masks.titles.length)]);
  Object.assign(viewer, { number, entry, photo, maps, masks, size: [height, width] });
  byId("viewer-title").textContent = entry.id;
  const classes = entry.keys.map((key) => data.classes[key]).join(", ") || "no class";
  const ious = Object.entries(entry.ious).map(([name, value]) => `${name} ${percent(value)}`).join(", ");
  byId("viewer-scores").textContent = ious ? `${classes}. Mean IoU (%): ${ious}` : `${classes}; ${scoreText(number)}`;
  fillViewerControls();
  const at = gallery.numbers.indexOf(number);
  byId("image-back").disabled = at <= 0;
  byId("image-on").disabled = at < 0 || at === gallery.numbers.length - 1;
  if (!byId("viewer").open) byId("viewer").showModal();
}

function fillViewerControls() {
  const before = byId("map-kind").value;
  const kinds = viewer.entry.maps.layers;
  byId("map-kind").replaceChildren(...kinds.map((title) => new Option(title, title)));
  byId("map-kind").value = kinds.includes(before) ? before : (kinds.at(-1) ?? "");
  byId("map-class").replaceChildren(...viewer.entry.keys.map((key, at) => new Option(data.classes[key], at)));
  byId("viewer-controls").hidden = !viewer.maps.length;
  chooseKind();
}

/** After a change of the maps: the threshold that was found for them. */
function chooseKind() {
  byId("threshold").value = Math.round(100 * (data.thresholds[byId("map-kind").value] ?? 0.3));
  setThreshold();
}

/** Number of the layer of the chosen maps, -1 without any. */
function layerOfKind() {
  return viewer.entry.maps.layers.indexOf(byId("map-kind").value);
}

function setThreshold() {
  viewer.threshold = Number(byId("threshold").value);
  byId("threshold-text").textContent = (viewer.threshold / 100).toFixed(2);
  paintViewer();
}

/** Levels of a class in a layer. */
function levelsOf(layer, at) {
  return viewer.maps[layer * viewer.entry.keys.length + at];
}

/** Labels h x w: the strongest class where its level is above the threshold, else background. */
function recoloured(layer) {
  const { keys } = viewer.entry;
  const labels = new Uint16Array(viewer.size[0] * viewer.size[1]);
  const strongest = new Uint8Array(labels.length);
  keys.forEach((key, at) => levelsOf(layer, at).forEach((level, pixel) => {
    if (level > strongest[pixel] && level > viewer.threshold) {
      strongest[pixel] = level;
      labels[pixel] = key + 1;
    }
  }));
  return labels;
}

/** Mean IoU of labels with the ground truth, both of the page's size; null without ground truth. */
function scoreOf(labels) {
  const at = viewer.entry.masks.titles.indexOf("ground truth");
  if (at < 0) return null;
  const [height, width] = viewer.size;
  const [tall, wide] = viewer.entry.masks.size;
  const counts = new Map();
  const add = (label, place) => {
    if (!counts.has(label)) counts.set(label, [0, 0]);
    counts.get(label)[place] += 1;
  };
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const y = Math.floor(((row + 0.5) * tall) / height), x = Math.floor(((column + 0.5) * wide) / width);
      const truth = viewer.masks[at][y * wide + x], label = labels[row * width + column];
      if (isIgnored(truth)) continue;
      add(truth, 1);
      if (truth === label) add(truth, 0);
      else add(label, 1);
    }
  }
  const ious = [...counts.values()].map(([both, either]) => both / either);
  return ious.reduce((sum, value) => sum + value, 0) / ious.length;
}

const HEAT = [[0, 0, 80], [30, 90, 220], [40, 190, 180], [240, 210, 60], [210, 30, 30]];

/** A map over the photograph, blue to red. */
function heat(levels, [height, width]) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  levels.forEach((level, at) => {
    const place = (level / 100) * (HEAT.length - 1.0001), low = Math.floor(place), part = place - low;
    const colour = HEAT[low].map((value, channel) => value + part * (HEAT[low + 1][channel] - value));
    picture.data.set([...colour, 150], 4 * at);
  });
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** A figure of the photograph with a picture over it; pale: of masks, whose colours are dark. */
function panel(title, paint, pale = false) {
  const figure = element("figure");
  const canvas = element("canvas", "", { role: "img", "aria-label": `${viewer.entry.id}: ${title}` });
  [canvas.width, canvas.height] = [viewer.photo.naturalWidth, viewer.photo.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(viewer.photo, 0, 0);
  if (pale) {
    context.fillStyle = "rgb(255 255 255 / .5)";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  if (paint) context.drawImage(paint, 0, 0, canvas.width, canvas.height);
  figure.append(canvas, element("figcaption", title));
  return figure;
}

/** Draw all panels anew from the controls. */
function paintViewer() {
  const { entry, size, masks } = viewer;
  const panels = [panel("photograph")];
  const layer = layerOfKind();
  if (layer >= 0 && entry.keys.length) {
    const title = entry.maps.layers[layer];
    const at = Number(byId("map-class").value);
    const name = data.classes[entry.keys[at]];
    const first = entry.maps.layers[0];
    if (first !== title) panels.push(panel(`${first}, ${name}`, heat(levelsOf(0, at), size)));
    panels.push(panel(`${title}, ${name}`, heat(levelsOf(layer, at), size)));
    const labels = recoloured(layer);
    panels.push(panel(`${title} at this threshold`, coloured(labels, size, 170), true));
    const score = scoreOf(labels);
    byId("live-score").textContent = score === null ? ""
      : `At this threshold: mean IoU ${percent(score)} % (at the size of this page)`;
  }
  entry.masks.titles.forEach((title, at) =>
    panels.push(panel(title, coloured(masks[at], entry.masks.size, 170), true)));
  byId("panels").replaceChildren(...panels);
  showLegend();
}

function showLegend() {
  const labels = new Set(viewer.entry.keys.map((key) => key + 1));
  viewer.masks.forEach((mask) => mask.forEach((label) => label && labels.add(label)));
  byId("legend").replaceChildren(...[...labels].sort((a, b) => a - b).map((label) => {
    const item = element("span", "", { class: "item" });
    item.append(element("span", "", { class: "key", style: `background:rgb(${colourOf(label).join(",")})` }),
      isIgnored(label) ? "ignored" : labelName(label));
    return item;
  }));
}

function stepImage(by) {
  const next = gallery.numbers[gallery.numbers.indexOf(viewer.number) + by];
  if (next !== undefined) return openViewer(next);
}

function startViewer() {
  const dialog = byId("viewer");
  byId("viewer-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => viewer.opener?.focus());
  byId("image-back").addEventListener("click", () => stepImage(-1));
  byId("image-on").addEventListener("click", () => stepImage(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select")) return; // arrows move sliders there
    if (event.key === "ArrowLeft") stepImage(-1);
    if (event.key === "ArrowRight") stepImage(1);
  });
  byId("map-kind").addEventListener("change", chooseKind);
  byId("map-class").addEventListener("change", paintViewer);
  byId("threshold").addEventListener("input", setThreshold);
}

startViewer();
startGallery();
