// Draws the gateway's snapshot, each second.

import { heatMap, quantile, refusedOf, room, waterLevel } from "./charts.js";
import { listen } from "./listen.js";
import * as tables from "./tables.js";
import { taken, time, zone } from "./times.js";
import { verdict } from "./verdict.js";

// Seconds over which numbers are averaged: the values of single seconds flicker.
const BREATH = 10;
// Timeout of a change, in ms; the gateway answers sooner.
const PATIENCE = 15000;

const at = (id) => document.getElementById(id);
const said = (text, bad) => {
  // Screen readers read each change, so it does not change every second.
  if (at("said").textContent !== text) at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
};
// Marks the page as old in style and in words: the style for sighted users, the words for others.
const old = (seconds) => {
  at("main").classList.toggle("old", seconds !== undefined);
  // Not read aloud: it changes each second.
  at("silent").textContent = seconds === undefined ? "" : `No update for ${seconds} s.`;
};

let points = [];
let scene;
// Version of the program that served this page.
let version;
let drawLevel;
let drawRoom;
let drawHeat;

const rate = (list, count) => {
  const seconds = list.reduce((all, point) => all + point.seconds, 0) || 1;
  return list.reduce((all, point) => all + count(point), 0) / seconds;
};
const text = (number) => number.toLocaleString("en", { maximumFractionDigits: 1 });

const shapes = { well: "●", strained: "▲", bad: "■" };
const judge = (last) => {
  const [level, sentence] = verdict(scene, last);
  at("verdict").className = `wide ${level}`;
  at("verdict").textContent = `${shapes[level]} ${sentence}`;
};

const draw = (frame) => {
  const last = points.slice(-BREATH);
  judge(last);
  const now = points.at(-1) ?? { in_flight: 0, limit: 0, queue: {} };
  const waiting = Object.values(now.queue).reduce((all, count) => all + count, 0);
  const counts = scene.ttft_buckets.map(() => 0).concat(0);
  for (const point of last) point.ttft.forEach((count, row) => { counts[row] += count; });
  const [half, late] = [0.5, 0.95].map((share) => tables.millis(quantile(share, counts, scene.ttft_buckets)));
  const rates = {
    offered: text(rate(last, (point) => point.offered)),
    admitted: text(rate(last, (point) => point.admitted)),
    refused: text(rate(last, refusedOf)),
    good: text(rate(last, (point) => point.good)),
    left: text(rate(last, (point) => point.gone)),
  };
  tables.figures(at("now"), [
    ["Offered /s", rates.offered], ["Admitted /s", rates.admitted], ["Refused /s", rates.refused],
    ["In time /s", rates.good], ["Failed /s", text(rate(last, (point) => point.failed))], ["Left /s", rates.left],
    ["In flight / limit", `${now.in_flight} / ${now.limit}`],
    ["Waiting", `${waiting}`],
    ["TTFT p50", half], ["TTFT p95", late], ["TTFT SLO", tables.millis(scene.ttft_slo_ms / 1000)],
  ]);
  at("level-told").textContent =
    `Last ${BREATH} s, per second: ${rates.offered} offered, ${rates.admitted} admitted, ${rates.refused} refused, ${rates.good} in time, ${rates.left} left by their clients.`;
  at("ttft-told").textContent = `Last ${BREATH} s: half of the streams began within ${half}, 95 % within ${late}.`;
  at("room-told").textContent = `Now: ${now.in_flight} of ${now.limit} in flight, ${waiting} waiting.`;
  drawLevel(points);
  drawRoom(points);
  drawHeat(points, scene);
  tables.refused(at("refused"), last);
  tables.queue(at("queue"), now.queue);
  tables.pools(at("pools"), scene, { switchColour, endCanary });
  at("hidden").textContent = scene.hidden_workers > 0 ? `${scene.hidden_workers} more workers are not shown; those with problems and the fullest are.` : "";
  tables.callers(at("callers"), scene.callers);
  tables.rules(at("rules"), scene.rules);
  tables.shared(at("shared"), scene);
  tables.events(at("events"), frame.events, frame.whole);
  at("zone").textContent = zone(new Date());
  at("maintenance").textContent = `${scene.maintenance ? "Open again after" : "Close for"} maintenance, at this gateway only`;
  at("maintenance").disabled = false;
};

// Token for writes if the browser's own may only read. It is lost when the page closes.
let token;
const askForToken = () => new Promise((resolve) => {
  const dialog = at("ask");
  at("ask-why").textContent = token ? "This token cannot make changes. Enter the admin token." : "A change needs the admin token.";
  at("token").value = "";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === "go" ? at("token").value : undefined), { once: true });
  dialog.returnValue = "";
  dialog.showModal();
});

// Sends a change. Error messages begin with `not`, except when the result is unknown.
const put = async (path, body, not, method = "PUT") => {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const signal = AbortSignal.timeout(PATIENCE);
  const answer = await fetch(path, { method, headers, body: JSON.stringify(body), signal }).catch(() => {
    throw new Error("No answer came: the change may or may not be in effect. Check the state on this page.");
  });
  if (answer.ok) return { everywhere: answer.status === 200 };
  // A proxy in between may answer with something else.
  const why = (await answer.json().catch(() => undefined))?.error;
  // In all other cases another token does not help.
  if (why?.code === "forbidden" || (answer.status === 401 && token)) {
    token = await askForToken();
    if (token) return put(path, body, not, method);
  }
  throw new Error(`${not}: ${why?.message ?? `HTTP status ${answer.status}`}`);
};

const pathOf = (pool, what) => `/api/v1/pools/${encodeURIComponent(pool)}/${what}`;

const switchColour = async (pool, colour, canary, told) => {
  told.textContent = "Switching…";
  try {
    const body = canary ? { colour, canary } : { colour };
    const { everywhere } = await put(pathOf(pool, "active"), body, "Not switched");
    if (canary) {
      told.textContent = "The canary has begun.";
      return;
    }
    told.dataset.colour = colour;
    told.textContent = everywhere ? `${colour} is active at every gateway.` : `The switch to ${colour} is published; not every gateway follows yet.`;
  } catch (fault) {
    told.textContent = fault.message;
  }
};

const endCanary = async (pool, told) => {
  told.textContent = "Ending the canary…";
  try {
    await put(pathOf(pool, "canary"), {}, "Not ended", "DELETE");
    told.textContent = "The canary was ended; the old side gets everything.";
  } catch (fault) {
    told.textContent = fault.message;
  }
};

at("maintenance").addEventListener("click", async () => {
  const on = !scene.maintenance;
  const others = scene.gateways > 1 ? " The other gateways take requests as before." : "";
  if (on && !confirm(`Refuse all new requests at this gateway only (${location.host}), until it is opened again?${others}`)) return;
  const told = at("maintenance-told");
  told.textContent = on ? "Closing…" : "Opening…";
  try {
    await put("/api/v1/maintenance", { on }, "Nothing changed");
    told.textContent = `${on ? "Closed" : "Opened"} at ${time(new Date())}, at this gateway only.`;
  } catch (fault) {
    told.textContent = fault.message;
  }
});

// Shows the state in one line; bold unless all is well.
const sayHowItIs = () => {
  const words = ["Live, updated every second."];
  if (scene.maintenance) words.push("Closed for maintenance: this gateway refuses new requests.");
  if (scene.phase !== "running") words.push(`The gateway is ${scene.phase}.`);
  if (scene.version !== version) words.push(`The gateway is now version ${scene.version}: reload this page.`);
  said(words.join(" "), words.length > 1);
};

const hear = (data) => {
  try {
    const frame = JSON.parse(data);
    scene = frame.scene;
    version ??= scene.version;
    points = taken(points, frame);
    drawLevel ??= waterLevel(at("level"));
    drawRoom ??= room(at("room"));
    drawHeat ??= heatMap(at("ttft"));
    draw(frame);
  } catch (fault) {
    // Most likely the gateway has another version.
    said("The gateway's data cannot be displayed: reload this page.", true);
    at("main").classList.add("old");
    throw fault;
  }
  old();
  sayHowItIs();
};
const miss = (seconds, refused) => {
  const why = refused
    ? "The gateway, or a proxy before it, sends no data: too many viewers, or another token is needed."
    : "The gateway does not answer.";
  said(`${why} The data is stale. Trying again…`, true);
  old(seconds);
};
listen("/api/v1/events", hear, miss);
