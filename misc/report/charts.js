// Scores: table, curves, bars of the classes, confusion; and what ran.

const MANY_LABELS = 100; // above it the confusion is a list

/** A table from rows of texts; the first cell of each row is its head. */
function tableOf(caption, head, rows) {
  const table = element("table");
  table.append(element("caption", caption));
  const top = element("tr");
  head.forEach((text) => top.append(element("th", text, { scope: "col" })));
  table.append(element("thead"));
  table.tHead.append(top);
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    row.forEach((cell, column) => {
      const kind = column === 0 ? element("th", "", { scope: "row" }) : element("td");
      kind.append(cell);
      line.append(kind);
    });
    body.append(line);
  }
  table.append(body);
  return table;
}

/** Its threshold; "" for masks that were not cut at one. */
function thresholdText(row) {
  return row.threshold === null ? "" : row.threshold.toFixed(2);
}

/** The last part of a path; the whole is its title. */
function fileName(path) {
  return element("span", path.split(/[\\/]/).pop(), { title: path });
}

function drawScores() {
  const place = byId("score-table");
  if (!data.rows.length) {
    place.append(element("p", data.has_truth
      ? "Nothing has been scored in this folder: there is no scores.json."
      : "There is no ground truth here, and nothing has been scored."));
    return;
  }
  const official = data.rows.some((row) => row.paper !== null);
  const head = ["", "mIoU (%)", "threshold", ...(official ? ["paper"] : []), "images", "list"];
  const rows = data.rows.map((row) => [
    row.name, percent(row.best, 2), thresholdText(row),
    ...(official ? [row.paper === null ? "" : row.paper.toFixed(1)] : []),
    String(row.images ?? ""), fileName(row.list ?? ""),
  ]);
  place.append(tableOf("Scores of this folder", head, rows));
  data.notes.forEach((note) => place.append(element("p", note, { class: "note" })));
}

const CHART = { width: 560, height: 300, left: 44, right: 12, top: 12, bottom: 40 };

/** Functions from threshold and mIoU to places in the chart, and the ends of both axes. */
function scalesOf(rows) {
  const xs = rows.flatMap((row) => row.thresholds);
  const ys = rows.flatMap((row) => row.curve.filter((value) => value !== null)).map((y) => 100 * y);
  const low = Math.max(0, Math.floor(Math.min(...ys) / 5) * 5);
  const high = Math.max(low + 5, Math.ceil(Math.max(...ys) / 5) * 5);
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const across = CHART.width - CHART.left - CHART.right;
  const down = CHART.height - CHART.top - CHART.bottom;
  return {
    low, high, first, last,
    x: (value) => CHART.left + (across * (value - first)) / (last - first || 1),
    y: (value) => CHART.top + (down * (high - 100 * value)) / (high - low),
  };
}

function drawAxes(chart, scales) {
  const { low, high, first, last, x, y } = scales;
  const step = high - low > 40 ? 10 : 5;
  for (let value = low; value <= high; value += step) {
    const at = y(value / 100);
    chart.append(shape("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: at, y2: at }));
    chart.append(shape("text", { x: CHART.left - 8, y: at + 4, "text-anchor": "end" }, String(value)));
  }
  const gap = [0.02, 0.05, 0.1, 0.2].find((wide) => (last - first) / wide <= 8) ?? 0.2;
  for (let tick = Math.ceil(first / gap - 1e-6); tick * gap <= last + 1e-6; tick++) {
    const value = tick * gap;
    chart.append(shape("text", { x: x(value), y: CHART.height - 22, "text-anchor": "middle" }, value.toFixed(2)));
  }
  chart.append(shape("text", { x: CHART.width / 2, y: CHART.height - 4, "text-anchor": "middle" },
    "background threshold"));
}

function drawCurves() {
  const rows = data.rows.filter((row) => row.thresholds.length > 1);
  if (!rows.length) return;
  const place = byId("curves");
  place.append(element("h3", "mIoU (%) over the background threshold"));
  const said = rows.map((row) => `${row.name}: best ${percent(row.best, 1)} at ${row.threshold.toFixed(2)}`);
  const chart = shape("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img",
    width: CHART.width, style: "max-width:100%", "aria-label": `Curves. ${said.join("; ")}` });
  const scales = scalesOf(rows);
  drawAxes(chart, scales);
  rows.forEach((row, number) => {
    const colour = `var(--c${number % 6})`;
    const points = row.curve.map((value, at) => value === null ? "" : `${scales.x(row.thresholds[at])},${scales.y(value)}`);
    chart.append(shape("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2.5,
      ...(number >= 6 ? { "stroke-dasharray": "6 4" } : {}) }));
    chart.append(shape("circle", { cx: scales.x(row.threshold), cy: scales.y(row.best), r: 4.5, fill: colour }));
  });
  place.append(chart);
  const legend = element("p", "", { class: "legend" });
  said.forEach((text, number) => {
    const item = element("span", "", { class: "item" });
    item.append(element("span", "", { class: "key", style: `background:var(--c${number % 6})` }), text);
    legend.append(item);
  });
  place.append(legend, curveTable(rows));
}

function curveTable(rows) {
  const all = [...new Set(rows.flatMap((row) => row.thresholds))].sort((a, b) => a - b);
  const lines = all.map((threshold) => [threshold.toFixed(2),
    ...rows.map((row) => percent(row.curve[row.thresholds.indexOf(threshold)], 2))]);
  const details = element("details");
  const box = element("div", "", { class: "scroll" });
  box.append(tableOf("mIoU (%) at every threshold", ["threshold", ...rows.map((row) => row.name)], lines));
  details.append(element("summary", "The same as a table"), box);
  return details;
}

function drawClassBars() {
  const rows = data.rows.filter((row) => row.iou);
  if (!rows.length) return;
  const place = byId("class-bars");
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.iou)))]
    .filter((name) => rows.some((row) => row.iou[name] !== null && row.iou[name] !== undefined));
  const lines = names.map((name) => [name, ...rows.map((row) => barOf(row.iou[name]))]);
  const box = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "IoU of the classes" });
  const table = tableOf("IoU (%) of every class at the best threshold", ["class", ...rows.map((row) => row.name)], lines);
  table.querySelectorAll("tbody td").forEach((cell) => cell.classList.add("bars"));
  if (rows.length > 4) table.classList.add("narrow");
  box.append(table);
  place.append(box);
}

function barOf(value) {
  const cell = document.createDocumentFragment();
  const slot = element("span", "", { class: "slot", "aria-hidden": "true" });
  slot.append(element("span", "", { class: "bar", style: `width:${100 * (value ?? 0)}%` }));
  cell.append(slot, ` ${percent(value)}`);
  return cell;
}

function drawConfusion() {
  if (!data.confusion) return;
  const { labels, counts, title } = data.confusion;
  const place = byId("confusion");
  place.append(element("h3", `Confusion of classes: ${title}`));
  const totals = counts.map((row) => row.reduce((sum, value) => sum + value, 0));
  const share = (row, column) => (totals[row] ? counts[row][column] / totals[row] : 0);
  const names = labels.map(labelName);
  place.append(confusedPairs(names, share));
  if (labels.length > MANY_LABELS) return;
  const lines = names.map((name, row) => [name, ...names.map((_, column) =>
    share(row, column) < 0.005 ? "" : (100 * share(row, column)).toFixed(0))]);
  const table = tableOf("Per cent of the pixels of a class (row) that are labelled as each class (column)", ["", ...names], lines);
  table.classList.add("matrix");
  table.querySelectorAll("tbody tr").forEach((line, row) =>
    line.querySelectorAll("td").forEach((cell, column) => {
      const strength = Math.round(70 * Math.sqrt(share(row, column)));
      const colour = row === column ? "var(--c2)" : "var(--c1)";
      cell.style.background = `color-mix(in srgb, ${colour} ${strength}%, var(--raised))`;
    }));
  const box = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" });
  box.append(table);
  place.append(box);
}

/** Without scores and ground truth there is nothing to say of the classes. */
function hideEmptyClasses() {
  if (byId("class-bars").children.length || byId("confusion").children.length) return;
  byId("classes").hidden = true;
  document.querySelector("nav a[href='#classes']").hidden = true;
}

function confusedPairs(names, share) {
  const pairs = [];
  names.forEach((truth, row) => names.forEach((other, column) => {
    if (row !== column && share(row, column) >= 0.01) pairs.push([share(row, column), truth, other]);
  }));
  pairs.sort((one, other) => other[0] - one[0]);
  const list = element("ul");
  pairs.slice(0, 8).forEach(([value, truth, other]) =>
    list.append(element("li", `${percent(value)} % of ${truth} is labelled ${other}`)));
  return list;
}

function seconds(value) {
  if (value < 100) return `${value.toFixed(0)} s`;
  return value < 6000 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

function drawRuns() {
  const place = byId("run-list");
  if (!data.runs.length) place.append(element("p", "This folder has no log of a run."));
  [...data.runs].reverse().forEach((run, number) => {
    const details = element("details", "", number === 0 ? { open: "" } : {});
    const total = run.steps.reduce((sum, step) => sum + step[1], 0);
    details.append(element("summary", `Run of ${run.at}: ${run.steps.length} steps, ${seconds(total)}`));
    details.append(tableOf("Steps", ["step", "time", ""], run.steps.map(([name, time, said]) => [name, seconds(time), said])));
    const machine = Object.entries(run.machine).map(([name, value]) => `${name} ${value}`).join(", ");
    if (machine) details.append(element("p", machine));
    details.append(element("h3", "Options with other values than their defaults"),
      element("pre", Object.entries(run.options).map(([name, value]) => `--${name} ${JSON.stringify(value)}`).join("\n") || "none"));
    place.append(details);
  });
  const made = Object.entries(data.machine).map(([name, value]) => `${name} ${value}`).join(", ");
  place.append(element("p", `This page was made ${data.made} with ${made}.`, { class: "note" }));
}
