// One run of the experiment: an open load on one arm, and one console line per request.
// `traffic-dam report` evaluates them; nothing is judged here. scripts/experiment runs it.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { chat } from './lib/dam.js';
import { CAPACITY, PATIENCE_MS, request, value } from './lib/load.js';

const TARGET = __ENV.TARGET_URL;
const RATE = Number(__ENV.LOAD) * CAPACITY;
// Requests of the last second still run when the measured time is over, as at its start.
const LENGTH = Number(__ENV.WARM_S) + Number(__ENV.MEASURED_S) + 2;
// A client holds a virtual user while it is displaced, waits (up to its patience) or reads.
const USERS = Math.ceil(RATE * (1 + PATIENCE_MS / 1000 + 2)) + 60;

export const options = {
  scenarios: {
    load: {
      executor: 'constant-arrival-rate',
      rate: Math.round(RATE * 100),
      timeUnit: '100s',
      duration: `${LENGTH}s`,
      preAllocatedVUs: USERS,
      gracefulStop: '30s',
    },
  },
};

export default function () {
  const n = exec.scenario.iterationInTest;
  const wanted = request(n);
  const due = (n / RATE + wanted.displaced) * 1000;
  const since = () => Date.now() - exec.scenario.startTime;
  sleep(Math.max(0, due - since()) / 1000);
  const late = Math.max(0, since() - due);
  const sent = { headers: { 'x-user-id': wanted.caller }, patience: `${PATIENCE_MS}ms` };
  const { answer, outcome, reason, ttft } = chat(TARGET, wanted.body, sent);
  console.log(
    JSON.stringify({
      at: due,
      late,
      start: answer.start,
      wall: answer.wall,
      outcome,
      ttft: ttft === undefined ? null : ttft,
      end: answer.end,
      reason: reason || '',
      prompt: wanted.body.messages[0].content.length,
      tokens: wanted.body.max_tokens,
    })
  );
}

// Prints the arrivals that k6 dropped because no virtual user was free.
export function handleSummary(data) {
  return { stdout: `${value(data, 'dropped_iterations', 'count')}\n` };
}
