// A crowd before a small worker: every virtual user asks for streams one after the other and, when refused, comes
// back when it was told to. `make smoke` starts the worker and the gateway and runs this; the environment may say
// VUS, DURATION and TTFT_SLO_MS.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { SLO, TREND_STATS, VALID, chat, countByReason, summary } from './lib/dam.js';

const BASE = __ENV.DAM_URL || 'http://127.0.0.1:8080';

export const options = {
  scenarios: {
    crowd: {
      executor: 'constant-vus',
      vus: Number(__ENV.VUS || 1000),
      duration: __ENV.DURATION || '30s',
      gracefulStop: '60s',
    },
  },
  thresholds: Object.assign({ ttft: [`p(95)<${SLO}`] }, VALID, countByReason()),
  summaryTrendStats: TREND_STATS,
};

export default function () {
  const user = exec.vu.idInTest;
  if (exec.vu.iterationInInstance === 0) sleep(Math.random()); // a crowd does not arrive in one millisecond
  const words = 20 + Math.floor(Math.random() * 180);
  const answer = chat(
    BASE,
    {
      messages: [{ role: 'user', content: 'why does water find its level? '.repeat(words / 6) }],
      max_tokens: 8 + Math.floor(Math.random() * 25),
    },
    { headers: { 'x-user-id': `user-${user}`, 'x-session-id': `session-${user}` } }
  );
  sleep(answer.wait * (1 + Math.random() / 10));
}

export function handleSummary(data) {
  return { stdout: summary(data) };
}
