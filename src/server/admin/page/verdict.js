// The overall state and its reason in one sentence. Does not use the page, to be testable alone.

// Shares of the last seconds' requests above which something is wrong.
const FAILED = 0.05;
const LATE = 0.05;
const REFUSED = 0.05;
// Refusals that more capacity would prevent; the others are caused by their callers.
const SCARCE = ["overloaded", "queue_timeout", "no_worker", "limiter_unavailable"];

const total = (points, count) => points.reduce((all, point) => all + count(point), 0);
const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
const percent = (share) => `${Math.max(1, Math.round(share * 100))} %`;
const because = (worker) => (worker.why ? `${worker.id}: ${worker.why}` : worker.id);

// Returns the workers that are eligible now; of a queue, the sides.
const able = (pool) => pool.workers.filter((worker) => worker.eligible && !worker.leaving && !worker.member_of);

const workers = (scene) => {
  for (const pool of scene.pools) {
    const open = able(pool);
    const red = open.filter((worker) => worker.light === "red");
    if (open.length === 0) return ["bad", `Pool ${pool.name} has no eligible worker.`];
    if (red.length === open.length) return ["bad", `No worker of pool ${pool.name} can serve (${because(red[0])}).`];
  }
  return undefined;
};

const failures = (points) => {
  const failed = total(points, (point) => point.failed);
  const share = failed / Math.max(total(points, (point) => point.admitted), failed, 1);
  return share > FAILED ? ["bad", `Workers fail ${percent(share)} of the requests that reach them.`] : undefined;
};

const lateness = (scene, points) => {
  const promise = scene.ttft_slo_ms / 1000;
  const began = total(points, (point) => sum(point.ttft));
  // The row that contains the SLO itself counts as in time.
  const bounds = scene.ttft_buckets;
  const late = total(points, (point) => sum(point.ttft.filter((_, row) => row > 0 && bounds[row - 1] >= promise)));
  const share = late / Math.max(began, 1);
  return share > LATE ? ["bad", `${percent(share)} of the streams begin later than the TTFT SLO of ${promise} s.`] : undefined;
};

const scarcity = (points) => {
  const offered = total(points, (point) => point.offered);
  const scarce = SCARCE.map((reason) => [reason, total(points, (point) => point.refused[reason] ?? 0)]);
  const share = total([...scarce], ([, count]) => count) / Math.max(offered, 1);
  if (share <= REFUSED) return undefined;
  const [reason] = scarce.sort(([, one], [, other]) => other - one)[0];
  return ["strained", `${percent(share)} of the requests are refused for lack of capacity, mostly ${reason}; admitted requests are served in time.`];
};

const shared = (scene) => {
  if (scene.redis === false) return ["strained", "Redis does not answer; the gateway continues without it."];
  if (scene.feed === false) return ["strained", "No heartbeats arrive; the gateway keeps the last known fleet."];
  if (scene.discovery.some((source) => source.away.length > 0)) return ["strained", "A discovery source does not answer; its workers stay as they were."];
  return undefined;
};

const redOnes = (scene) => {
  const all = scene.pools.flatMap(able);
  const red = all.filter((worker) => worker.light === "red");
  return red.length > 0 ? ["strained", `${red.length} of ${all.length} workers ${red.length > 1 ? "are" : "is"} red (${because(red[0])}).`] : undefined;
};

const fullness = (now) => {
  const waiting = sum(now.queue);
  return waiting > 0 && now.in_flight >= now.limit
    ? ["strained", `The workers are full, ${now.in_flight} of ${now.limit} in flight, and ${waiting} wait.`]
    : undefined;
};

const well = (points) => {
  const quota = total(points, (point) => sum(point.refused));
  if (total(points, (point) => point.offered) === 0) return ["well", "All is well; no requests."];
  return ["well", quota > 0 ? "All is well; some callers are refused because of their own limits, see below." : "All is well."];
};

// Returns the level (`well`, `strained` or `bad`) and the sentence, for the worst problem.
export const verdict = (scene, points) => {
  const now = points.at(-1) ?? { in_flight: 0, limit: 0, queue: {} };
  const level = scene.maintenance
    ? ["bad", "Closed for maintenance: new requests are refused."]
    : scene.phase !== "running" ? ["bad", `The gateway is ${scene.phase}.`] : undefined;
  return level ?? workers(scene) ?? failures(points) ?? lateness(scene, points) ?? scarcity(points) ?? shared(scene)
    ?? redOnes(scene) ?? fullness(now) ?? well(points);
};
