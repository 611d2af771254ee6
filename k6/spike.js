// From half the capacity to five times as much within a second, and back: TTFT stays within the promise in the middle
// of it, and those who come after it find the worker as it was before.

import exec from 'k6/execution';
import { summary } from './lib/dam.js';
import { BASE, CAPACITY, NOTHING_LEAKED, ask, changing, countLeaks, options as runOptions, seconds } from './lib/load.js';

const [CALM, SPIKE] = [seconds(20, 5), seconds(15, 4)];
// Answers that the spike left under way, and the estimate of what a worker can do, take this long to be as before.
const RECOVERY = 3;
const OVER = CALM + 1 + SPIKE + 1;

export const options = runOptions(
  { spike: changing(0.5, [[CALM, 0.5], [1, 5], [SPIKE, 5], [1, 0.5], [CALM + RECOVERY, 0.5]]) },
  Object.assign(
    {
      'kept{phase:before}': ['rate>=0.98'],
      'good{phase:during}': [`count>=${Math.floor(0.85 * CAPACITY * SPIKE)}`],
      'kept{phase:after}': ['rate>=0.98'],
    },
    NOTHING_LEAKED
  )
);

export default function () {
  const at = exec.instance.currentTestRunDuration / 1000;
  const phase = at < CALM ? 'before' : at < OVER ? 'during' : at < OVER + RECOVERY ? 'recovery' : 'after';
  ask(BASE, { tags: { phase } });
}

export const teardown = countLeaks;
export const handleSummary = (data) => ({ stdout: summary(data) });
