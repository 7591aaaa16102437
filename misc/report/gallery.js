// The images as pages of thumbnails, in an order, of a class.

const PAGE = 24;
const gallery = { numbers: [], page: 0, turn: 0 };

/** The same shuffle in every browser. */
function shuffled(numbers) {
  let state = 12345;
  const random = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 2 ** 32;
  const mixed = [...numbers];
  for (let last = mixed.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
  }
  return mixed;
}

const ORDERS = {
  worst: (numbers) => numbers, // as they are in the file; images without a score last
  best: (numbers) => {
    const scored = numbers.filter((number) => images.scores[number] !== null);
    return [...scored.reverse(), ...numbers.filter((number) => images.scores[number] === null)];
  },
  random: shuffled,
  name: (numbers) => [...numbers].sort((one, other) =>
    images.ids[one] < images.ids[other] ? -1 : 1),
};

function orderName(order) {
  const scored = data.has_truth ? "IoU" : "agreement";
  return { worst: `lowest ${scored} first`, best: `highest ${scored} first`, random: "random", name: "by name" }[order];
}

function fillControls() {
  for (const order of Object.keys(ORDERS)) byId("order").append(new Option(orderName(order), order));
  const counts = new Map();
  images.keys.forEach((keys) => keys.forEach((key) => counts.set(key, (counts.get(key) ?? 0) + 1)));
  byId("class-filter").append(new Option(`all (${images.ids.length})`, ""));
  [...counts].sort((one, other) => one[0] - other[0]).forEach(([key, count]) =>
    byId("class-filter").append(new Option(`${data.classes[key]} (${count})`, key)));
}

/** Take order, class and search from the controls, and show the first page. */
function choose() {
  const wanted = byId("class-filter").value;
  const part = byId("find").value.toLowerCase();
  const all = images.ids.map((_, number) => number).filter((number) =>
    (wanted === "" || images.keys[number].includes(Number(wanted))) &&
    (!part || images.ids[number].toLowerCase().includes(part)));
  gallery.numbers = ORDERS[byId("order").value](all);
  return showPage(0);
}

async function showPage(page) {
  const pages = Math.max(1, Math.ceil(gallery.numbers.length / PAGE));
  gallery.page = Math.min(Math.max(page, 0), pages - 1);
  const turn = ++gallery.turn;
  byId("page").value = gallery.page + 1;
  byId("page").max = pages;
  byId("page-count").textContent = `of ${pages}`;
  byId("page-back").disabled = gallery.page === 0;
  byId("page-on").disabled = gallery.page === pages - 1;
  const shown = gallery.numbers.slice(gallery.page * PAGE, (gallery.page + 1) * PAGE);
  byId("gallery-status").textContent = shown.length
    ? `${gallery.numbers.length} images` : "No image fits.";
  const tiles = shown.map(tileOf);
  byId("gallery").replaceChildren(...tiles);
  await Promise.all(tiles.map((tile, at) => fillTile(tile, shown[at], turn)));
}

function scoreText(number) {
  const score = images.scores[number];
  if (score === null) return "no score";
  return data.has_truth ? `IoU ${percent(score)} %` : `agreement ${percent(score)} %`;
}

function tileOf(number) {
  const item = element("li");
  const button = element("button", "", { type: "button" });
  const classes = images.keys[number].map((key) => data.classes[key]).join(", ");
  button.append(element("canvas", "", { width: 4, height: 3, "aria-hidden": "true" }),
    element("span", images.ids[number], { class: "name" }),
    element("span", [scoreText(number), classes].filter(Boolean).join(" · "), { class: "more" }));
  button.addEventListener("click", () => openViewer(number, button));
  item.append(button);
  return item;
}

async function fillTile(tile, number, turn) {
  const entry = await entryOf(number);
  const photo = await decoded(entry.photo);
  if (turn !== gallery.turn) return; // another page is shown by now
  const canvas = tile.querySelector("canvas");
  const masks = byId("overlay").checked ? await layersOf(entry.masks, entry.masks.titles.length) : [];
  paintLabels(canvas, photo, masks[0], entry.masks.size);
  if (!data.first_picture) data.first_picture = performance.now();
}

/** A photograph with labels over it; labels may be undefined. */
function paintLabels(canvas, photo, labels, size) {
  [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0);
  if (labels) context.drawImage(coloured(labels, size, 150), 0, 0, canvas.width, canvas.height);
}

/** Labels as a transparent picture with white contours; the background is clear. */
function coloured(labels, [height, width], opacity) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  labels.forEach((label, at) => {
    const ends = (at % width < width - 1 && labels[at + 1] !== label) ||
      (at + width < labels.length && labels[at + width] !== label);
    if (ends) picture.data.set([255, 255, 255, 255], 4 * at);
    else if (label) picture.data.set([...colourOf(label), opacity], 4 * at);
  });
  context.putImageData(picture, 0, 0);
  return canvas;
}

function startGallery() {
  fillControls();
  ["order", "class-filter", "overlay"].forEach((id) => byId(id).addEventListener("change", () =>
    id === "overlay" ? showPage(gallery.page) : choose()));
  byId("find").addEventListener("input", choose);
  byId("page").addEventListener("change", () => showPage(Number(byId("page").value) - 1));
  byId("page-back").addEventListener("click", () => showPage(gallery.page - 1));
  byId("page-on").addEventListener("click", () => showPage(gallery.page + 1));
  return choose();
}
