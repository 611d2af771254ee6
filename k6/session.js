// Conversations before two workers: each turn contains all earlier turns, and should reach the
// worker that has them in its cache. The load is so low that this worker always has a free slot.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { Rate } from 'k6/metrics';
import { chat, summary } from './lib/dam.js';
import { BASE, CAPACITY, NOTHING_LEAKED, countLeaks, draw, options as runOptions, request, seconds, value } from './lib/load.js';

const TURNS = 5;
// Time to read an answer.
const THINKING_S = 0.5;
const LENGTH = seconds(40, 8);

// 1 for each turn after the first that the same worker answered, else 0.
const same = new Rate('same_worker');

export const options = runOptions(
  {
    conversations: {
      executor: 'constant-arrival-rate',
      rate: Math.max(1, Math.round((0.6 * CAPACITY * 60) / TURNS)),
      timeUnit: '60s',
      duration: `${LENGTH}s`,
      preAllocatedVUs: Math.ceil(0.6 * CAPACITY * 4) + 40,
      gracefulStop: '60s',
    },
  },
  Object.assign({ same_worker: ['rate>=0.9'], kept: ['rate>=0.97'] }, NOTHING_LEAKED)
);

export default function () {
  const conversation = exec.scenario.iterationInTest;
  sleep(draw(conversation, 8));
  const headers = { 'x-user-id': `user-${conversation}`, 'x-session-id': `session-${conversation}` };
  const messages = [];
  let worker;
  for (let turn = 0; turn < TURNS; turn++) {
    const { body } = request(conversation * TURNS + turn);
    messages.push(...body.messages);
    const answer = chat(BASE, Object.assign(body, { messages }), { headers });
    if (answer.outcome !== 'admitted') return;
    const now = answer.answer.headers['x-sim-model'];
    if (worker !== undefined) same.add(now === worker);
    worker = now;
    messages.push({ role: 'assistant', content: 'it falls until it cannot fall further' });
    sleep(THINKING_S);
  }
}

export const teardown = countLeaks;

export function handleSummary(data) {
  const share = value(data, 'same_worker', 'rate') * 100;
  return { stdout: summary(data, [`session    ${share.toFixed(1)} % of turns at the worker of the turn before`]) };
}
