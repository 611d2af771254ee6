// Tables and lists. Text from callers or workers is set as text, never as markup.

import { stamp } from "./times.js";

export const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const tenths = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
export const percent = (share) => `${Math.round(share * 100)} %`;
export const millis = (seconds) => (seconds === undefined ? "–" : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

// `columns` holds names; `#` marks numeric ones. On a narrow screen cells are stacked, so each
// carries its column's name, and ARIA roles keep the table structure.
const fill = (table, columns, rows, none) => {
  const plain = (name) => name.replace("#", "");
  const look = (name) => (name.startsWith("#") ? { class: "number" } : {});
  const row = (...cells) => make("tr", { role: "row" }, ...cells);
  const head = columns.map((name) => make("th", { scope: "col", role: "columnheader", ...look(name) }, plain(name)));
  const cell = (content, index) => make("td", { role: "cell", "data-name": plain(columns[index]), ...look(columns[index]) }, content);
  const body = rows.length > 0
    ? rows.map((cells) => row(...cells.map(cell)))
    : [row(make("td", { role: "cell", colspan: columns.length }, none))];
  table.setAttribute("role", "table");
  table.replaceChildren(make("thead", { role: "rowgroup" }, row(...head)), make("tbody", { role: "rowgroup" }, ...body));
};

// Lower is better; the top fifth is a warning.
const meter = (value, most, name) => {
  const max = Math.max(most, 1);
  return make("meter", { min: 0, max, value, high: 0.8 * max, optimum: 0, "aria-label": name });
};
const shapes = { green: "●", yellow: "▲", red: "■" };
export const light = (name) => make("span", { class: name }, `${shapes[name]} ${name}`);

export const figures = (list, pairs) =>
  list.replaceChildren(...pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));

export const refused = (table, points) => {
  const seconds = points.reduce((all, point) => all + point.seconds, 0) || 1;
  const counts = {};
  for (const point of points) {
    for (const [reason, count] of Object.entries(point.refused)) counts[reason] = (counts[reason] ?? 0) + count;
  }
  const rows = Object.entries(counts).sort(([, one], [, other]) => other - one);
  fill(table, ["Reason", "#per second, last 10 s"], rows.map(([reason, count]) => [reason, tenths(count / seconds)]), "No refusals.");
};

export const queue = (table, counts) => {
  const rows = ["critical", "interactive", "batch"].map((name) => [name, `${counts[name] ?? 0}`]);
  fill(table, ["Class", "#waiting"], rows, "");
};

export const callers = (table, list) => fill(
  table,
  ["Caller", "#requests/s", "#refused/s", "#tokens/s"],
  list.map((caller) => [caller.id, tenths(caller.requests), tenths(caller.refused), tenths(caller.tokens)]),
  "No requests.",
);

export const rules = (table, list) => fill(
  table,
  ["Rule", "Max use, last 10 s", "Caller", "#refused/s", "#keys"],
  list.map((rule) => {
    const used = rule.used == null ? "–" : make("span", {}, meter(rule.used, 1, `${rule.name}, share of the quota used`), percent(rule.used));
    return [rule.observes ? `${rule.name} (observes)` : rule.name, used, rule.caller ?? "–", `${rule.refused}`, `${rule.keys}`];
  }),
  "No rules are set.",
);

export const shared = (table, scene) => {
  const state = (works, good, bad, none) => (works == null ? none : works ? make("span", { class: "green" }, good) : make("span", { class: "red" }, bad));
  fill(table, ["Part", "State"], [
    ["Gateway", scene.maintenance ? make("span", { class: "red" }, "closed for maintenance") : scene.phase],
    ["Redis", state(scene.redis, "reachable", "does not answer", "not used")],
    ["Heartbeats of workers", state(scene.feed, "received", "lost; keeping the last known fleet", "not used")],
    ["Discovery of workers", state(scene.discovery.length > 0 ? scene.discovery.every((source) => source.away.length === 0) : null, "answers", "does not answer; keeping the last known fleet", "not used")],
    ["Gateways", `${scene.gateways}`],
    ["Connections", `${scene.connections}`],
    ["Request bodies in memory", `${tenths(scene.buffered_bytes / 1024)} KiB`],
    ["Settings reloaded / refused", `${scene.reloads[0]} / ${scene.reloads[1]}`],
    ["Version", scene.version],
  ], "");
};

const workers = (table, pool) => fill(
  table,
  ["Light", "Worker", "Colour", "In flight / limit", "#KV cache", "#heartbeat", "Why"],
  pool.workers.map((worker) => {
    const filled = make("span", {}, meter(worker.in_flight, worker.limit, `${worker.id}, in flight`), `${worker.in_flight} / ${worker.limit}`);
    const note = worker.leaving ? " (leaving)" : worker.eligible ? "" : worker.member_of ? " (standby)" : " (not eligible)";
    const said = worker.said ?? {};
    const version = said.version ? `, version ${said.version}` : "";
    return [
      light(worker.light), (worker.member_of ? "└ " : "") + worker.id + note + (worker.member_of ? version : ""), worker.colour, filled,
      said.kv_used == null ? "–" : percent(said.kv_used),
      said.age_ms == null ? "–" : millis(said.age_ms / 1000),
      worker.why ?? "",
    ];
  }),
  "No workers.",
);

// Pools keep their elements, so that an update does not take the focus from an open colour choice.
export const pools = (place, scene, actions) => {
  const known = new Map([...place.children].map((child) => [child.dataset.pool, child]));
  for (const pool of scene.pools) {
    let part = known.get(pool.name);
    known.delete(pool.name);
    const colours = pool.colours.join(" ");
    if (!part || part.dataset.colours !== colours) {
      const fresh = block(pool, actions);
      fresh.dataset.colours = colours;
      if (part) part.replaceWith(fresh);
      else place.append(fresh);
      part = fresh;
    }
    const ceiling = pool.ceiling == null ? "" : `, at most ${Math.round(pool.ceiling)} in total`;
    part.querySelector(".about").textContent =
      `${pool.active ? `${pool.active} is active` : "all colours are active"}; ${pool.in_flight} in flight${ceiling}.`;
    follow(part, pool.active ?? "");
    trial(part.querySelector(".trial"), pool.canary);
    workers(part.querySelector("table"), pool);
    strangers(part.querySelector(".strangers"), pool);
  }
  for (const gone of known.values()) gone.remove();
};

// Sides of a queue whose workers are of several versions.
const mixed = (pool) => {
  const sides = new Map();
  for (const worker of pool.workers) {
    if (!worker.member_of || !worker.said?.version) continue;
    if (!sides.has(worker.member_of)) sides.set(worker.member_of, new Set());
    sides.get(worker.member_of).add(worker.said.version);
  }
  return [...sides].filter(([, versions]) => versions.size > 1);
};

// Processes that take a pool's jobs and are none of its workers, and versions that share them. The list is
// rebuilt only if it changes, so that it is not read aloud each second.
const strangers = (list, pool) => {
  const lines = [
    ...(pool.strangers ?? []).map((stranger) => `${stranger.worker} ${stranger.why}.`),
    ...mixed(pool).map(([side, versions]) => `Several versions share the jobs of ${side}: ${[...versions].sort().join(", ")}.`),
  ];
  if (list.dataset.told === lines.join("\n")) return;
  list.dataset.told = lines.join("\n");
  list.replaceChildren(...lines.map((line) => make("p", { class: "red" }, line)));
};

// How a canary is doing, or how the last one ended.
const trial = (part, canary) => {
  const runs = canary?.state === "under_way";
  part.querySelector("button").hidden = !runs;
  part.querySelector("p").textContent = canary ? trialLine(canary) : "";
};
const side = (name, counts) => {
  const ttft = counts.ttft_ms == null ? "" : `, TTFT ${millis(counts.ttft_ms / 1000)}`;
  return `${name} ${counts.good} of ${counts.offered} in time, ${counts.failed} failed${ttft}`;
};
const trialLine = (canary) => {
  const sides = `${side(canary.new, canary.canary)}; ${side(canary.old, canary.usual)}`;
  const seconds = Math.round(canary.elapsed_ms / 1000);
  const share = `${(canary.share * 100).toLocaleString("en")} %`;
  switch (canary.state) {
    case "under_way": {
      const time = canary.judged_here ? ` for ${seconds} s of ${Math.round(canary.judge_ms / 1000)} s` : "";
      const where = canary.judged_here ? `${canary.gateways} of the gateways` : "this gateway alone; another one judges";
      return `Canary: ${canary.new} gets ${share} beside ${canary.old}${time}. ${sides} (${where}).`;
    }
    case "promoted":
      return `The canary of ${canary.new} was promoted after ${seconds} s: ${canary.why}. ${sides}.`;
    default:
      return `The canary of ${canary.new} went back to ${canary.old} after ${seconds} s: ${canary.why}. ${sides}.`;
  }
};

// After a switch made elsewhere, the old message is cleared and the choice follows the new colour.
const follow = (part, active) => {
  const told = part.querySelector(".switched");
  if (part.dataset.active !== active && told.dataset.colour !== active) told.textContent = "";
  part.dataset.active = active;
  const select = part.querySelector("select.colour");
  if (!select) return;
  // A choice with the focus is not changed until the focus moves on.
  if (select.dataset.active !== active && document.activeElement !== select) {
    if (active) select.value = active;
    select.dataset.active = active;
  }
};

// Shares of a canary that can be chosen; anything else through the API.
const shares = [["", "at once"], ["1%", "after a trial with 1 %"], ["5%", "after a trial with 5 %"], ["25%", "after a trial with 25 %"]];

const block = (pool, actions) => {
  const name = make("h3", {}, `Pool ${pool.name}`);
  const parts = [name, make("p", { class: "note about" })];
  const told = make("span", { role: "status", class: "switched" });
  if (pool.colours.length > 1) {
    const select = make("select", { class: "colour" }, ...pool.colours.map((colour) => make("option", { value: colour }, colour)));
    const share = make("select", { class: "share" }, ...shares.map(([value, text]) => make("option", { value }, text)));
    const form = make(
      "form",
      { class: "switch" },
      make("label", {}, "Active colour: ", select),
      make("label", {}, "switch ", share),
      make("button", {}, "Switch"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      actions.switchColour(pool.name, select.value, share.value, told);
    });
    parts.push(form);
  }
  const end = make("button", { type: "button", hidden: "" }, "End the canary");
  end.addEventListener("click", () => actions.endCanary(pool.name, told));
  parts.push(told, make("div", { class: "trial" }, make("p", { class: "note" }), end));
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Workers of pool ${pool.name}` }, make("table"));
  const part = make("div", {}, ...parts, make("div", { class: "strangers", role: "status" }), scroll);
  part.dataset.pool = pool.name;
  return part;
};

export const events = (list, fresh, whole) => {
  const now = new Date();
  const line = (event) => {
    const at = new Date(event.at_ms).toISOString();
    return make("p", {}, make("time", { datetime: at, title: at }), event.text);
  };
  // After a reconnect all events come again; they must not be read aloud.
  list.setAttribute("aria-live", whole ? "off" : "polite");
  if (whole) list.replaceChildren();
  list.prepend(...fresh.map(line).reverse());
  while (list.children.length > 100) list.lastElementChild.remove();
  // Older events too: at midnight they get a date.
  for (const time of list.querySelectorAll("time")) {
    const text = stamp(new Date(time.dateTime), now);
    if (time.textContent !== text) time.textContent = text;
  }
};
