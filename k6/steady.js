// A load below the worker's capacity: nearly all requests are served, and in time.

import { summary } from './lib/dam.js';
import { BASE, NOTHING_LEAKED, ask, countLeaks, options as runOptions, seconds, steady } from './lib/load.js';

export const options = runOptions(
  { steady: steady(0.7, seconds(60, 8)) },
  Object.assign({ kept: ['rate>=0.98'] }, NOTHING_LEAKED)
);

export default () => ask(BASE);
export const teardown = countLeaks;
export const handleSummary = (data) => ({ stdout: summary(data) });
