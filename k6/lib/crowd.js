// Users who send one stream after the other; after a refusal they retry when they were told to.

import { sleep } from 'k6';
import exec from 'k6/execution';
import { SLO, TREND_STATS, VALID, chat, countByReason } from './dam.js';

export const crowd = {
  executor: 'constant-vus',
  vus: Number(__ENV.VUS || 1000),
  duration: __ENV.DURATION || '30s',
  gracefulStop: '60s',
};

// Returns the options of a script with these scenarios and additional thresholds.
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
  if (exec.vu.iterationInInstance === 0) sleep(Math.random()); // users do not all arrive in the same millisecond
}

// Sends one stream of this user.
export function visit(base) {
  const user = exec.vu.idInTest;
  arrive();
  const headers = { 'x-user-id': `user-${user}`, 'x-session-id': `session-${user}` };
  const answer = chat(base, question(), { headers });
  sleep(answer.wait * (1 + Math.random() / 10));
}
