// A crowd of users, each of whom asks for streams one after the other and, when refused, comes back when it was told to.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { SLO, TREND_STATS, VALID, chat, countByReason } from './dam.js';

export const crowd = {
  executor: 'constant-vus',
  vus: Number(__ENV.VUS || 1000),
  duration: __ENV.DURATION || '30s',
  gracefulStop: '60s',
};

// Options of a script with these scenarios and further thresholds.
export function options(scenarios, thresholds = {}) {
  return {
    scenarios,
    thresholds: Object.assign({ ttft: [`p(95)<${SLO}`] }, VALID, countByReason(), thresholds),
    summaryTrendStats: TREND_STATS,
  };
}

export function question() {
  const words = 20 + Math.floor(Math.random() * 180);
  return {
    messages: [{ role: 'user', content: 'why does water find its level? '.repeat(words / 6) }],
    max_tokens: 8 + Math.floor(Math.random() * 25),
  };
}

export function arrive() {
  if (exec.vu.iterationInInstance === 0) sleep(Math.random()); // a crowd does not arrive in one millisecond
}

// One stream of this user.
export function visit(base) {
  const user = exec.vu.idInTest;
  arrive();
  const headers = { 'x-user-id': `user-${user}`, 'x-session-id': `session-${user}` };
  const answer = chat(base, question(), { headers });
  sleep(answer.wait * (1 + Math.random() / 10));
}
