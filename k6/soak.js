// A long run around the capacity, with hang-ups, waves and calm. A slow leak (a permit not
// returned, an estimate that drifts) shows at the end: the last third must be served like the
// first.

import exec from 'k6/execution';
import { summary } from './lib/dam.js';
import { BASE, NOTHING_LEAKED, ask, changing, countLeaks, draw, options as runOptions, seconds } from './lib/load.js';

const LENGTH = Number(__ENV.SOAK_SECONDS || seconds(900, 24));
const WAVE = LENGTH / 12;
// One in twenty clients leaves within the first two seconds.
const LEAVING = 0.05;

const waves = Array.from({ length: 6 }, () => [[WAVE, 1.2], [WAVE, 0.5]]).flat();

export const options = runOptions(
  { soak: changing(0.5, waves) },
  Object.assign({ 'kept{third:0}': ['rate>=0.85'], 'kept{third:2}': ['rate>=0.85'] }, NOTHING_LEAKED)
);

export default function () {
  const third = Math.min(2, Math.floor((exec.instance.currentTestRunDuration / 1000 / LENGTH) * 3));
  const n = exec.scenario.iterationInTest;
  const leaves = draw(n, 5) < LEAVING ? `${100 + Math.floor(1900 * draw(n, 6))}ms` : undefined;
  ask(BASE, { leaves, tags: { third: String(third) } });
}

export const teardown = countLeaks;
export const handleSummary = (data) => ({ stdout: summary(data) });
