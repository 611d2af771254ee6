// Every second client leaves, while it waits or during its answer. Its permit goes to another one
// at once, so that more requests are served than if it had stayed, and nothing leaks.

import { sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { summary } from './lib/dam.js';
import { BASE, NOTHING_LEAKED, ask, countLeaks, draw, options as runOptions, seconds, steady } from './lib/load.js';

// They leave after 10 to 600 ms: before the first token or during the first ones.
const LEAVE_MS = [10, 600];
const WORKER = __ENV.WORKER_URL || 'http://127.0.0.1:8000';

// Sequences that the worker still decodes although their clients have left.
const orphans = new Counter('orphans');

export const options = runOptions(
  { mixed: steady(1.3, seconds(40, 8)) },
  // Half of 1.3× stays; each of the others costs about a fifth of an answer.
  Object.assign({ 'kept{kind:stays}': ['rate>=0.95'], left: ['count>0'], orphans: ['count==0'] }, NOTHING_LEAKED)
);

export default function () {
  const n = exec.scenario.iterationInTest;
  const leaves = n % 2 === 0 ? undefined : `${Math.floor(LEAVE_MS[0] + (LEAVE_MS[1] - LEAVE_MS[0]) * draw(n, 7))}ms`;
  ask(BASE, { leaves, tags: { kind: leaves ? 'leaves' : 'stays' } });
}

export function teardown() {
  countLeaks();
  let running;
  for (let tries = 0; tries < 20; tries++) {
    running = Number(/^vllm:num_requests_running\{.*\} (.+)$/m.exec(http.get(`${WORKER}/metrics`).body)[1]);
    if (running === 0) break;
    sleep(0.1);
  }
  orphans.add(running);
}

export const handleSummary = (data) => ({ stdout: summary(data) });
