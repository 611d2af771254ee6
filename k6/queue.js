// Users before a small worker that takes requests from a queue, and some who send asynchronous
// requests, each twice, like a client that missed the first answer. `make smoke-queue` starts
// Redis, worker and gateway and runs this. VUS, DURATION and TTFT_SLO_MS may be set in the
// environment.

import { sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';
import { arrive, crowd, options as of, question, visit } from './lib/crowd.js';
import { summary } from './lib/dam.js';

const BASE = __ENV.DAM_URL || 'http://127.0.0.1:8080';
const HEADERS = { authorization: 'Bearer later', 'content-type': 'application/json' };
// Longest time for a job, with other users before it.
const PATIENCE_S = 60;

const jobsDone = new Counter('jobs_done');
const jobsRefused = new Counter('jobs_refused');
const jobsFailed = new Counter('jobs_failed');
const jobTime = new Trend('job_time', true);

export const options = of(
  { crowd, later: Object.assign({}, crowd, { vus: Math.ceil(crowd.vus / 50), exec: 'later' }) },
  { jobs_done: ['count>0'], jobs_failed: ['count==0'] }
);

export default function () {
  visit(BASE);
}

export function later() {
  arrive();
  const body = JSON.stringify(Object.assign({ model: 'sim' }, question()));
  const key = `${exec.vu.idInTest}-${exec.vu.iterationInInstance}`;
  const headers = Object.assign({ prefer: 'respond-async', 'idempotency-key': key }, HEADERS);
  const began = Date.now();
  const places = [1, 2].map(() => http.post(`${BASE}/v1/chat/completions`, body, { headers }));
  const [first, second] = places;
  if (first.status === 429 || first.status === 503) {
    jobsRefused.add(1);
    return sleep(Number(first.headers['Retry-After']));
  }
  if (first.status !== 202 || second.headers.Location !== first.headers.Location) {
    return failed(`${first.status} ${first.headers.Location}, again ${second.status} ${second.headers.Location}`);
  }
  for (;;) {
    const job = http.get(BASE + first.headers.Location, { headers: HEADERS });
    const state = job.status === 200 ? job.json('status') : job.status;
    if (state === 'done' && job.json('response.choices.0.message.content')) {
      jobsDone.add(1);
      jobTime.add(Date.now() - began);
      return undefined;
    }
    if (!['queued', 'pending', 'running'].includes(state)) return failed(job.body);
    if (Date.now() - began > PATIENCE_S * 1000) return failed(`still ${state} after ${PATIENCE_S} s`);
    sleep(0.2);
  }
}

function failed(detail) {
  jobsFailed.add(1);
  console.error(`failed: a job: ${detail}`);
}

export function handleSummary(data) {
  const value = (metric, key) => ((data.metrics[metric] || {}).values || {})[key] || 0;
  const [p50, p99] = ['med', 'p(99)'].map((key) => value('job_time', key).toFixed(0));
  const counts = ['done', 'refused', 'failed'].map((what) => `${value(`jobs_${what}`, 'count')} ${what}`);
  return { stdout: `jobs       ${counts.join(', ')}; p50 ${p50} ms, p99 ${p99} ms\n${summary(data)}` };
}
