// Common code of all scripts: sends a stream, and counts it as an answer, a refusal or a failure.

import sse from 'k6/x/sse';
import { Counter, Rate, Trend } from 'k6/metrics';

// API=messages sends Anthropic's Messages instead of chats.
const MESSAGES = __ENV.API === 'messages';
const PATH = MESSAGES ? '/v1/messages' : '/v1/chat/completions';

// Refusals that a valid request may get under overload. Any other reason is a failure.
export const REFUSALS = {
  rate_limited: 429,
  token_limited: 429,
  overloaded: MESSAGES ? 529 : 503,
  queue_timeout: MESSAGES ? 529 : 503,
};

export const ttft = new Trend('ttft', true);
export const admitted = new Counter('admitted');
export const refused = new Counter('refused');
export const failed = new Counter('failed');
// Clients that left without an answer: out of patience, or because a script has them leave.
export const gaveUp = new Counter('gave_up');
export const left = new Counter('left');
// Good answers: complete, with the first content within the TTFT SLO. `good` counts them. `kept` is
// 1 for each of them and 0 for every other offered request, refusals included.
export const good = new Counter('good');
export const kept = new Rate('kept');
// 1 for each admitted stream with content, 0 for one that completed without any.
export const ttftRecorded = new Rate('ttft_recorded');
// 1 for each refusal with a usable retry time.
export const retryAfterGiven = new Rate('retry_after_given');

// Thresholds without which a run is invalid, whatever its other figures.
export const VALID = {
  failed: ['count==0'],
  gave_up: ['count==0'],
  admitted: ['count>0'],
  ttft_recorded: ['rate==1'],
  retry_after_given: ['rate==1'],
};

// The TTFT SLO in milliseconds.
export const SLO = Number(__ENV.TTFT_SLO_MS || 1000);

// `true` if the event's data contains the first word of an answer: text, reasoning, a refusal or a
// tool call, in the format of chat, completions, responses or messages. The role alone does not count.
export function isContent(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch (_) {
    return false;
  }
  if (typeof event.type === 'string' && event.type.endsWith('.delta')) return Boolean(event.delta);
  if (event.type === 'content_block_delta') {
    const { text, thinking, partial_json: input } = event.delta;
    return Boolean(text || thinking || input);
  }
  return (event.choices || []).some((choice) => {
    const delta = choice.delta || {};
    const spoken = choice.text || delta.content || delta.reasoning_content || delta.reasoning || delta.refusal;
    return Boolean(spoken) || (delta.tool_calls || []).length > 0;
  });
}

// Returns the retry time of a refusal in seconds; undefined if there is no usable one.
export function retryAfter(answer) {
  const [whole, millis] = [answer.headers['retry-after'], answer.headers['retry-after-ms']];
  if (!/^[1-9][0-9]*$/.test(whole || '') || !/^[0-9]+$/.test(millis || '')) return undefined;
  return Number(millis) / 1000;
}

// `true` if this is the data of the last event of a complete answer.
const isEnd = (data) => (MESSAGES ? /"type": ?"message_stop"/.test(data || '') : data === '[DONE]');

// Sends one streamed chat or message and records it, with `tags` on every metric. `params` is passed
// to `sse.post`; after `leaves` the client hangs up in any case. Returns { outcome: 'admitted' |
// 'refused' | 'gave_up' | 'left' | 'failed', ttft (ms), wait (s), reason, answer }.
export function chat(base, body, params = {}, tags = {}) {
  let first;
  const { leaves, ...sent } = params;
  if (leaves) sent.timeout = leaves;
  const request = JSON.stringify(Object.assign({ model: 'sim', stream: true }, body));
  const answer = sse.post(`${base}${PATH}`, request, sent, (event) => {
    if (!isContent(event.data)) return true;
    first = event.at;
    return false;
  });
  const result = judge(answer, first, leaves !== undefined);
  const isGood = result.outcome === 'admitted' && first !== undefined && first <= SLO;
  good.add(isGood ? 1 : 0, tags);
  if (result.outcome !== 'left') kept.add(isGood, tags);
  if (result.outcome === 'admitted') {
    admitted.add(1, tags);
    ttftRecorded.add(first !== undefined);
    if (first !== undefined) ttft.add(first, tags);
  } else if (result.outcome === 'refused') {
    refused.add(1, Object.assign({ reason: result.reason }, tags));
    retryAfterGiven.add(result.wait !== undefined);
  } else if (result.outcome === 'failed') {
    failed.add(1, { fault: result.reason });
    console.error(`failed: ${result.reason}: ${result.detail}`);
  } else {
    (result.outcome === 'left' ? left : gaveUp).add(1, tags);
  }
  return Object.assign(result, { answer, ttft: first, wait: result.wait === undefined ? 1 : result.wait });
}

// Classifies an answer by what can be seen of it.
function judge(answer, first, leaves) {
  const reason = answer.headers['x-traffic-dam-reason'];
  if (answer.status !== 200 && answer.status !== 0 && REFUSALS[reason] === answer.status) {
    return { outcome: 'refused', reason, wait: retryAfter(answer) };
  }
  if (answer.gaveUp) return { outcome: 'gave_up' };
  if (leaves && answer.error.includes('deadline exceeded')) return { outcome: 'left' };
  const fault = faultOf(answer, reason);
  if (fault) return { outcome: 'failed', reason: fault.kind, detail: fault.detail };
  return { outcome: 'admitted', wait: 0 };
}

function faultOf(answer, reason) {
  if (answer.status === 0) return { kind: 'no_answer', detail: answer.error };
  if (answer.status !== 200) return { kind: reason || `status_${answer.status}`, detail: answer.body };
  if (answer.error) return { kind: 'broke', detail: `${answer.error} after ${answer.events} events` };
  if (!isEnd(answer.last)) return { kind: 'unfinished', detail: `the last event was ${answer.last}` };
  return undefined;
}

// Thresholds that always hold: k6 counts a tagged metric separately only if a threshold names it.
export function countByReason() {
  return Object.fromEntries(Object.keys(REFUSALS).map((reason) => [`refused{reason:${reason}}`, ['count>=0']]));
}

// Returns a summary of the run for handleSummary, with additional `lines` of the script.
export function summary(data, lines = []) {
  const value = (metric, key) => ((data.metrics[metric] || {}).values || {})[key] || 0;
  const ms = (key) => `${value('ttft', key).toFixed(0)} ms`;
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  const reasons = Object.keys(REFUSALS)
    .map((reason) => [reason, value(`refused{reason:${reason}}`, 'count')])
    .filter(([, count]) => count > 0)
    .map(([reason, count]) => `${count} ${reason}`);
  const broken = Object.entries(data.metrics).flatMap(([name, metric]) =>
    Object.entries(metric.thresholds || {})
      .filter(([, threshold]) => !threshold.ok)
      .map(([rule]) => `${name}: ${rule}`)
  );
  return [
    `admitted   ${value('admitted', 'count')} (${value('admitted', 'rate').toFixed(1)}/s)`,
    `refused    ${value('refused', 'count')}${reasons.length ? `: ${reasons.join(', ')}` : ''}`,
    `failed     ${value('failed', 'count')}, gave up ${value('gave_up', 'count')}, left ${value('left', 'count')}`,
    `good       ${value('good', 'count')} (${value('good', 'rate').toFixed(1)}/s), ${percent(value('kept', 'rate'))} of what was asked`,
    `TTFT       p50 ${ms('med')}, p90 ${ms('p(90)')}, p95 ${ms('p(95)')}, p99 ${ms('p(99)')}, worst ${ms('max')}`,
    ...lines,
    broken.length ? `NOT MET    ${broken.join('; ')}` : 'every threshold met',
    '',
  ].join('\n');
}

export const TREND_STATS = ['med', 'p(90)', 'p(95)', 'p(99)', 'max'];
