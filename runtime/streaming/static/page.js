// Asks for the newest frame, draws what was found over its picture, and asks again. Everything is shown as text, never as HTML.
"use strict";

const STATES = {
  "running": "running",
  "device-lost": "the device was lost: reopen the handle",
  "ended": "the source is at its end",
  "stopped": "stopped",
  "closed": "the handle is closed",
};
const COLOURS = { all: "#d55e00", hem: "#0072b2", refused: "#1b1f24" }; // as in every picture
const SCALES = { given: "as given", "red-cells": "by the red cells", assumed: "only assumed" };
const MOST_CELLS = 24;
const RETRY_MS = 1000;
const STALE_MS = 5000; // a picture that is older says so: it may be mistaken for what lies under the objective

const at = (id) => document.getElementById(id);
const view = at("view");
let paused = false;
let news = 0;
let newest = null;
let drawn = null; // the number of the frame on the page
let state = ""; // of the stream, as it was told last
let since = performance.now(); // the newest frame came then

at("pause").addEventListener("click", () => {
  paused = !paused;
  show();
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Go on" : "Pause";
});

function list(id, rows) {
  const parts = [];
  for (const [name, value, warn] of rows) {
    const term = document.createElement("dt");
    const fact = document.createElement("dd");
    term.textContent = name;
    fact.textContent = value;
    fact.className = warn ? "warn" : "";
    parts.push(term, fact);
  }
  at(id).replaceChildren(...parts);
}

function warn(alarms) {
  const items = alarms.map((alarm) => {
    const item = document.createElement("li");
    item.textContent = alarm;
    return item;
  });
  at("alarms").hidden = !alarms.length;
  at("alarms").replaceChildren(...items);
}

function tellState() {
  const old = performance.now() - since;
  const stale = state === "running" && old > STALE_MS;
  const words = state ? STATES[state] || state : "waiting for a stream";
  at("state").textContent = stale ? `no new frame for ${Math.round(old / 1000)} s` : words;
  at("state").dataset.bad = String(state === "device-lost" || state === "closed");
}

const ms = (value) => (value === null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);

function tell(status) {
  at("source").textContent = status.source;
  warn(status.alarms);
  const totals = status.totals;
  list("totals", [
    ["frames", totals.frames, false],
    ["not examined", totals.refused_frames, totals.refused_frames > 0],
    ["cells", totals.cells || 0, false],
    ["ALL", totals.all || 0, false],
    ["HEM", totals.hem || 0, false],
    ["refused", totals.refused || 0, false],
  ]);
  const stream = status.stream;
  at("stream").parentElement.hidden = !stream;
  state = stream ? stream.state : "";
  tellState();
  if (!stream) return;
  list("stream", [
    ["frames taken", stream.taken, false],
    ["dropped", stream.dropped, stream.dropped > 0],
    ["waiting", `${stream.waiting} (room for ${stream.queue})`, false],
    ["examined in", ms(stream.examine_p50_ms), false],
    ["latency, median", ms(stream.latency_p50_ms), false],
    ["latency, longest", ms(stream.latency_max_ms), false],
    ["failures", stream.failed, stream.failed > 0],
  ]);
  at("error").hidden = !stream.last_error;
  at("error").textContent = stream.last_error ? `last failure: ${stream.last_error}` : "";
}

const kind = (cell) => cell.label || "refused";
const says = (cell) => (cell.label ? `${cell.label.toUpperCase()} ${cell.probability.toFixed(2)}` : cell.refusal);

function outline(pen, cell, scale, unit) {
  const points = cell.contour.length > 2 ? cell.contour : corners(cell.box);
  pen.beginPath();
  points.forEach(([x, y], index) => (index ? pen.lineTo(x * scale, y * scale) : pen.moveTo(x * scale, y * scale)));
  pen.closePath();
  pen.setLineDash([]);
  pen.strokeStyle = "rgba(255, 255, 255, 0.85)";
  pen.lineWidth = 4 * unit;
  pen.stroke();
  pen.setLineDash(cell.label ? [] : [6 * unit, 4 * unit]);
  pen.strokeStyle = COLOURS[kind(cell)];
  pen.lineWidth = 2 * unit;
  pen.stroke();
}

const corners = ([x0, y0, x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

// Calls before refusals, the likeliest ALL first: what is named first finds room.
const byScore = (cells) => [...cells].sort((one, other) => (other.score ?? -1) - (one.score ?? -1));

// Where another caption is already it leaves its own out: the outline's colour tells the call.
function caption(pen, cell, scale, unit, taken) {
  const text = says(cell);
  const high = 16 * unit;
  pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width + 8 * unit;
  const x = Math.max(0, Math.min(cell.box[0] * scale, view.width - wide));
  const above = cell.box[1] * scale - high - 2 * unit;
  const y = above >= 0 ? above : Math.min(cell.box[3] * scale + 2 * unit, view.height - high);
  if (taken.some(([left, top, right]) => x < right && left < x + wide && Math.abs(y - top) < high)) return;
  taken.push([x, y, x + wide]);
  pen.fillStyle = COLOURS[kind(cell)];
  pen.fillRect(x, y, wide, high);
  pen.fillStyle = "#ffffff";
  pen.textBaseline = "middle";
  pen.fillText(text, x + 4 * unit, y + high / 2);
}

function strip(frame, picture, scale) {
  const called = byScore(frame.cells.filter((cell) => cell.label));
  at("strip").hidden = !called.length;
  const shown = called.length > MOST_CELLS ? `, ${MOST_CELLS} of ${called.length}` : "";
  at("called").textContent = `Cells with a call, the likeliest ALL first${shown}`;
  const items = called.slice(0, MOST_CELLS).map((cell) => {
    const item = document.createElement("li");
    const tile = document.createElement("canvas");
    const words = document.createElement("span");
    const [x0, y0, x1, y1] = cell.box;
    const side = 1.15 * Math.max(x1 - x0, y1 - y0);
    const corner = [(x0 + x1 - side) / 2, (y0 + y1 - side) / 2];
    tile.width = tile.height = 192;
    tile.className = words.className = cell.label;
    words.textContent = says(cell);
    tile.getContext("2d").drawImage(picture, corner[0] * scale, corner[1] * scale, side * scale, side * scale, 0, 0, 192, 192);
    item.append(tile, words);
    return item;
  });
  at("cells").replaceChildren(...items);
}

async function load(number) {
  const picture = new Image();
  picture.src = `frame/${number}.jpg`;
  await picture.decode();
  return picture;
}

async function draw(frame) {
  if (frame.picture) {
    const picture = await load(frame.number);
    if (paused) return;
    view.width = picture.naturalWidth;
    view.height = picture.naturalHeight;
    const pen = view.getContext("2d");
    const scale = picture.naturalWidth / frame.width;
    const unit = Math.max(1, view.width / (view.clientWidth || 900)); // as large on a narrow page
    pen.drawImage(picture, 0, 0);
    frame.cells.forEach((cell) => outline(pen, cell, scale, unit));
    const taken = [];
    byScore(frame.cells).forEach((cell) => caption(pen, cell, scale, unit, taken));
    strip(frame, picture, scale);
  } else {
    view.getContext("2d").clearRect(0, 0, view.width, view.height);
    strip(frame, null, 1);
  }
  at("name").textContent = frame.name;
  if (frame.caution) at("notice").textContent = frame.caution;
  at("refusal").hidden = !frame.refusal;
  at("refusal").textContent = frame.refusal ? `not examined: ${frame.refusal}` : "";
  const counts = frame.counts;
  const rows = [["cells", counts.cells, false], ["ALL", counts.all, false], ["HEM", counts.hem, false], ["refused", counts.refused, false]];
  const known = frame.pixel_um === null ? [] : [
    ["\u00b5m a pixel", frame.pixel_um.toFixed(4), false],
    ["scale", SCALES[frame.scale_source], frame.scale_source === "assumed"],
    ...(frame.scale_note ? [["but", frame.scale_note, true]] : []),
  ];
  list("counts", [...rows, ...known]);
  drawn = frame.number;
  document.body.dataset.drawn = String(drawn);
}

function show() {
  if (newest && !paused && newest.number !== drawn) {
    return draw(newest).catch(() => {}); // a picture that is gone already has been followed by another
  }
}

async function follow() {
  for (;;) {
    try {
      const answer = await fetch(`next?after=${news}`);
      if (!answer.ok) throw new Error(answer.statusText);
      const told = await answer.json();
      news = told.news;
      if (told.frame && told.frame.number !== (newest && newest.number)) since = performance.now();
      tell(told.status);
      newest = told.frame;
      await show();
    } catch {
      state = "lost";
      at("state").textContent = "no connection to blastscope: trying again";
      at("state").dataset.bad = "true";
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}

follow();
setInterval(() => state === "running" && tellState(), 1000);
