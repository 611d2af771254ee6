// What the worker gives at its best: a few more clients than it has slots, each asking again as soon as it is answered,
// without a gateway. Prints good answers per second, and nothing else: the 1× of all other runs.

import exec from 'k6/execution';
import { Counter } from 'k6/metrics';
import { SLO, chat } from './lib/dam.js';
import { request, seconds, value } from './lib/load.js';

// Answers that end in the first seconds are of a batch that is still filling.
const WARM = 3;
const MEASURED = seconds(12, 5);
const BASES = (__ENV.WORKER_URLS || __ENV.WORKER_URL || 'http://127.0.0.1:8000').split(' ');
// One or two more than the slots close the gap between the end of an answer and the next prompt.
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
