// Shared by all runs of the suite: worker capacity, requests and arrival times.

import { sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { SLO, TREND_STATS, VALID, chat, countByReason } from './dam.js';

export const BASE = __ENV.DAM_URL || 'http://127.0.0.1:8080';
const ADMIN = __ENV.DAM_ADMIN_URL || 'http://127.0.0.1:8081';
// Peak good answers per second of all workers, measured by k6/capacity.js: 1× of every load.
export const CAPACITY = Number(__ENV.CAPACITY || 30);
// A short run only shows that a script works; it has too few requests for good figures.
export const SHORT = Boolean(__ENV.SHORT);
// A client that has seen no content after this time hangs up.
export const PATIENCE_MS = Number(__ENV.PATIENCE_MS || 10000);
// Iterations start at fixed intervals. Each waits a random time up to this before it sends, so that
// arrivals are like those of independent users (a displaced lattice tends to a Poisson process).
const DISPLACED_S = 1;
// Number of callers.
const CALLERS = 20;
const SEED = Number(__ENV.SEED || 1);

// Returns the seconds of a phase: `long`, or `short` in a short run.
export const seconds = (long, short) => (SHORT ? short : long);

// Returns a number in 0…1 that depends on the seed, the request and `what` (mulberry32).
export function draw(request, what) {
  let state = (SEED * 0x9e3779b1 + request * 0x85ebca6b + what * 0xc2b2ae35) | 0;
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}

// Returns request `n` of a scenario: the same in every run with this seed.
export function request(n) {
  const tokens = 30 + Math.floor(270 * draw(n, 1) ** 2);
  const body = {
    messages: [{ role: 'user', content: 'why does water find its level? '.repeat(tokens / 8) }],
    max_tokens: 10 + Math.floor(60 * draw(n, 2)),
  };
  return { body, caller: `caller-${Math.floor(CALLERS * draw(n, 3))}`, displaced: DISPLACED_S * draw(n, 4) };
}

// Sends one request at its own time. `more` may set caller, headers, hang-up time and tags.
export function ask(base, more = {}) {
  const wanted = request(exec.scenario.iterationInTest);
  sleep(wanted.displaced);
  const headers = Object.assign({ 'x-user-id': more.caller || wanted.caller }, more.headers);
  const params = { headers, patience: `${PATIENCE_MS}ms` };
  if (more.leaves) params.leaves = more.leaves;
  return Object.assign(chat(base, wanted.body, params, more.tags), { wanted });
}

// Virtual users for an open load of `times` the capacity: one per displaced or unfinished request.
const users = (times) => Math.ceil(times * CAPACITY * (DISPLACED_S + 1.5)) + 80;

// An open load at a constant rate: the gateway cannot reduce it.
export function steady(times, duration, extra = {}) {
  return Object.assign(
    {
      executor: 'constant-arrival-rate',
      rate: Math.max(1, Math.round(times * CAPACITY * 10)),
      timeUnit: '10s',
      duration: `${duration}s`,
      preAllocatedVUs: users(times),
      gracefulStop: '30s',
    },
    extra
  );
}

// An open load that changes: `stages` are [seconds, multiple of the capacity at their end].
export function changing(start, stages, extra = {}) {
  return Object.assign(
    {
      executor: 'ramping-arrival-rate',
      startRate: Math.max(1, Math.round(start * CAPACITY * 10)),
      timeUnit: '10s',
      stages: stages.map(([length, times]) => ({
        duration: `${length}s`,
        target: Math.max(1, Math.round(times * CAPACITY * 10)),
      })),
      preAllocatedVUs: users(Math.max(start, ...stages.map(([, times]) => times))),
      gracefulStop: '30s',
    },
    extra
  );
}

// Metrics that depend on the speed of the machine. A short run only prints them: it must pass on a
// busy machine, and is too short for good figures. It still asserts that there were good answers.
const OF_SPEED = /^(ttft|dropped_iterations|light_share|kept|good)(\{|$)/;

function asserted([metric, conditions]) {
  if (!SHORT || !OF_SPEED.test(metric)) return [metric, conditions];
  return [metric, metric === 'good' ? ['count>0'] : conditions.map((condition) => condition.replace(/[<>=].*/, '>=0'))];
}

// Returns k6's options for `scenarios`, with the thresholds of every run and `thresholds`. A run in
// which the generator could not send all of an open load is invalid.
export function options(scenarios, thresholds) {
  const all = Object.assign(
    { ttft: [`p(95)<${SLO}`], dropped_iterations: ['count==0'], good: ['count>0'] },
    VALID,
    countByReason(),
    thresholds
  );
  return {
    scenarios,
    thresholds: Object.fromEntries(Object.entries(all).map(asserted)),
    summaryTrendStats: TREND_STATS,
    setupTimeout: '60s',
    teardownTimeout: '60s',
  };
}

// Permits and requests that are still held when no client is left.
const leaked = new Counter('leaked');
export const NOTHING_LEAKED = { leaked: ['count==0'] };

// For teardown: waits until the gateway is empty, and counts what is left after five seconds.
export function countLeaks() {
  let held = 0;
  for (let tries = 0; tries < 50; tries++) {
    held = sum(http.get(`${ADMIN}/metrics`).body, /^traffic_dam_(in_flight|queue_depth|worker_in_flight)(\{.*\})? (.+)$/);
    if (held === 0) break;
    sleep(0.1);
  }
  leaked.add(held);
}

function sum(text, series) {
  const matches = text.split('\n').map((line) => series.exec(line));
  return matches.reduce((total, match) => total + (match ? Number(match[match.length - 1]) : 0), 0);
}

// Returns a counter's or rate's value from the data of handleSummary.
export function value(data, metric, key) {
  return ((data.metrics[metric] || {}).values || {})[key] || 0;
}
