// Finds the breaking point. The load climbs in steps from half the capacity to eight times as much.
// Without a gateway, at some step no answer is in time any more; with it, goodput stays at its
// best.

import exec from 'k6/execution';
import { summary } from './lib/dam.js';
import { BASE, CAPACITY, NOTHING_LEAKED, ask, changing, countLeaks, options as runOptions, seconds, value } from './lib/load.js';

const STEPS = [0.5, 1, 2, 4, 8];
const STEP = seconds(15, 4);

const climb = STEPS.flatMap((times, index) => (index === 0 ? [[STEP, times]] : [[1, times], [STEP, times]]));
// Only the seconds of constant load count for a step, not those of the climb to it.
const stepAt = (at) => {
  const index = Math.floor(at / (STEP + 1));
  return at % (STEP + 1) < STEP && index < STEPS.length ? STEPS[index] : undefined;
};

export const options = runOptions(
  { climb: changing(STEPS[0], climb) },
  Object.assign(
    Object.fromEntries(STEPS.map((times) => {
      const least = times < 1 ? 0.98 * times : 0.85;
      return [`good{step:${times}}`, [`count>=${Math.floor(least * CAPACITY * STEP)}`]];
    })),
    NOTHING_LEAKED
  )
);

export default function () {
  const step = stepAt(exec.instance.currentTestRunDuration / 1000);
  ask(BASE, { tags: { step: step === undefined ? 'rising' : String(step) } });
}

export const teardown = countLeaks;

export function handleSummary(data) {
  const lines = STEPS.map((times) => {
    const rate = value(data, `good{step:${times}}`, 'count') / STEP;
    return `at ${String(times).padStart(3)} ×   ${rate.toFixed(1)} good/s, ${((rate / CAPACITY) * 100).toFixed(0)} % of the worker's best`;
  });
  return { stdout: summary(data, lines) };
}
