// From half the capacity to five times as much within a second, and back. TTFT stays within the SLO
// during the spike, and later clients are served as before it.

import exec from 'k6/execution';
import { summary } from './lib/dam.js';
import { BASE, CAPACITY, NOTHING_LEAKED, ask, changing, countLeaks, options as runOptions, seconds } from './lib/load.js';

const [CALM, SPIKE] = [seconds(20, 5), seconds(15, 4)];
// Time for the spike's answers to end and for the capacity estimate to recover.
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
