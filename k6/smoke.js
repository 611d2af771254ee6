// Users before a small worker. `make smoke` starts worker and gateway and runs this. VUS, DURATION
// and TTFT_SLO_MS may be set in the environment.

import { crowd, options as of, visit } from './lib/crowd.js';
import { summary } from './lib/dam.js';

const BASE = __ENV.DAM_URL || 'http://127.0.0.1:8080';

export const options = of({ crowd });

export default function () {
  visit(BASE);
}

export function handleSummary(data) {
  return { stdout: summary(data) };
}
