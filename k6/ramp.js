// Up to a thousand users who send one request after the other, and retry when told to: far more
// than the worker can serve. Each gets an answer in time or a refusal with a retry time.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { chat, summary } from './lib/dam.js';
import { BASE, CAPACITY, NOTHING_LEAKED, countLeaks, options as runOptions, request, seconds } from './lib/load.js';

const CROWD = Number(__ENV.VUS || seconds(1000, 200));
const [UP, HELD, DOWN] = [seconds(20, 4), seconds(30, 6), seconds(10, 2)];

export const options = runOptions(
  {
    crowd: {
      executor: 'ramping-vus',
      startVUs: 1,
      stages: [
        { duration: `${UP}s`, target: CROWD },
        { duration: `${HELD}s`, target: CROWD },
        { duration: `${DOWN}s`, target: 0 },
      ],
      gracefulRampDown: '60s',
    },
  },
  Object.assign({ good: [`count>=${Math.floor(0.8 * CAPACITY * HELD)}`] }, NOTHING_LEAKED)
);

export default function () {
  const user = `user-${exec.vu.idInTest}`;
  const { body } = request(exec.scenario.iterationInTest);
  const answer = chat(BASE, body, { headers: { 'x-user-id': user } });
  sleep(answer.wait * (1 + Math.random() / 10));
}

export const teardown = countLeaks;
export const handleSummary = (data) => ({ stdout: summary(data) });
