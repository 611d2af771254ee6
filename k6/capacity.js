// Measures the worker's peak without a gateway: a few more clients than slots, each sending again
// when it is answered. Prints only good answers per second: the 1× of all other runs.

import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { SLO, chat } from './lib/dam.js';
import { request, seconds, value } from './lib/load.js';

// In the first seconds the batch is still filling, so answers that end then do not count.
const WARM = 3;
const MEASURED = seconds(12, 5);
const BASES = (__ENV.WORKER_URLS || __ENV.WORKER_URL || 'http://127.0.0.1:8000').split(' ');
// Two more than the slots fill the gap between the end of an answer and the next prompt.
const CLIENTS = (Number(__ENV.SLOTS || 32) + 2) * BASES.length;

const best = new Counter('best');

export const options = {
  scenarios: {
    closed: { executor: 'constant-vus', vus: CLIENTS, duration: `${WARM + MEASURED}s`, gracefulStop: '10s' },
  },
  thresholds: { failed: ['count==0'], best: ['count>0'] },
};

export default function () {
  const answer = chat(BASES[exec.vu.idInTest % BASES.length], request(exec.scenario.iterationInTest).body);
  const ended = exec.instance.currentTestRunDuration / 1000;
  best.add(answer.ttft <= SLO && ended >= WARM && ended < WARM + MEASURED ? 1 : 0);
}

export function handleSummary(data) {
  return { stdout: `${(value(data, 'best', 'count') / MEASURED).toFixed(2)}\n` };
}
