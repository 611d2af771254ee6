// Draws what the gateway tells each second.

import { heatMap, quantile, refusedOf, waterLevel } from "./charts.js";
import * as tables from "./tables.js";

const SECONDS = 300;
// What numbers are averaged over, in seconds: one alone flickers.
const BREATH = 10;
const AGAIN = 3000;

const at = (id) => document.getElementById(id);
const said = (text, bad) => {
  // Told to screen readers when it changes, so not every second.
  if (at("said").textContent !== text) at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
};

let points = [];
let scene;
let drawLevel;
let drawHeat;

const rate = (list, count) => {
  const seconds = list.reduce((all, point) => all + point.seconds, 0) || 1;
  return list.reduce((all, point) => all + count(point), 0) / seconds;
};
const text = (number) => number.toLocaleString("en", { maximumFractionDigits: 1 });

const draw = (frame) => {
  const last = points.slice(-BREATH);
  const now = points.at(-1) ?? { in_flight: 0, limit: 0, queue: {} };
  const counts = scene.ttft_buckets.map(() => 0).concat(0);
  for (const point of last) point.ttft.forEach((count, row) => { counts[row] += count; });
  const [half, late] = [0.5, 0.95].map((share) => tables.millis(quantile(share, counts, scene.ttft_buckets)));
  const rates = {
    offered: text(rate(last, (point) => point.offered)),
    admitted: text(rate(last, (point) => point.admitted)),
    refused: text(rate(last, refusedOf)),
    good: text(rate(last, (point) => point.good)),
  };
  tables.figures(at("now"), [
    ["Offered /s", rates.offered], ["Admitted /s", rates.admitted], ["Refused /s", rates.refused],
    ["In time /s", rates.good], ["Failed /s", text(rate(last, (point) => point.failed))],
    ["In flight / limit", `${now.in_flight} / ${now.limit}`],
    ["Waiting", `${Object.values(now.queue).reduce((all, count) => all + count, 0)}`],
    ["TTFT p50", half], ["TTFT p95", late], ["Promise", tables.millis(scene.ttft_slo_ms / 1000)],
  ]);
  at("level-told").textContent =
    `Last ${BREATH} s, a second: ${rates.offered} offered, ${rates.admitted} admitted, ${rates.refused} refused, ${rates.good} in time.`;
  at("ttft-told").textContent = `Last ${BREATH} s: half of the streams began within ${half}, 95 % within ${late}.`;
  drawLevel(points);
  drawHeat(points, scene);
  tables.refused(at("refused"), last);
  tables.queue(at("queue"), now.queue);
  tables.pools(at("pools"), scene, switchColour);
  at("hidden").textContent = scene.hidden_workers > 0 ? `${scene.hidden_workers} more workers are not shown: of so many, those in trouble and the fullest are.` : "";
  tables.callers(at("callers"), scene.callers);
  tables.rules(at("rules"), scene.rules);
  tables.shared(at("shared"), scene);
  tables.events(at("events"), frame.events, frame.whole);
  at("maintenance").textContent = scene.maintenance ? "Open again after maintenance" : "Close for maintenance";
};

// The token for writes, when the one that the browser was asked for may only read. Gone with the page.
let token;
const askForToken = () => new Promise((resolve) => {
  const dialog = at("ask");
  at("token").value = "";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === "go" ? at("token").value : undefined), { once: true });
  dialog.returnValue = "";
  dialog.showModal();
});

const put = async (path, body) => {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method: "PUT", headers, body: JSON.stringify(body) });
  if (answer.status === 403 || (answer.status === 401 && token)) {
    token = await askForToken();
    if (token) return put(path, body);
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error.message);
  return { everywhere: answer.status === 200 };
};

const switchColour = async (pool, colour, told) => {
  told.textContent = "Switching…";
  try {
    const { everywhere } = await put(`/api/v1/pools/${encodeURIComponent(pool)}/active`, { colour });
    told.textContent = everywhere ? `${colour} takes the work at every gateway.` : `${colour} was told; not every gateway follows yet.`;
  } catch (fault) {
    told.textContent = `Not switched: ${fault.message}`;
  }
};

at("maintenance").addEventListener("click", async () => {
  const on = !scene?.maintenance;
  if (on && !confirm("Refuse all new requests until it is opened again?")) return;
  try {
    await put("/api/v1/maintenance", { on });
  } catch (fault) {
    said(`Nothing changed: ${fault.message}`, true);
  }
});

const listen = () => {
  const source = new EventSource("/api/v1/events");
  source.onmessage = (event) => {
    const frame = JSON.parse(event.data);
    scene = frame.scene;
    const newest = points.at(-1)?.at_ms ?? 0;
    points = (frame.whole ? frame.points : points.concat(frame.points.filter((point) => point.at_ms > newest))).slice(-SECONDS);
    drawLevel ??= waterLevel(at("level"));
    drawHeat ??= heatMap(at("ttft"));
    draw(frame);
    said("Live, a picture each second.");
  };
  source.onerror = () => {
    said("The gateway does not answer; what is shown is old. Trying again…", true);
    // A refusal ends it for good; a lost connection it mends itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  };
};
listen();
