// One caller asks for 70 % of ten times the capacity; nine others share the rest, and each wants thrice its share.
// Nobody's share may suffer from the greedy one.

import exec from 'k6/execution';
import { Rate } from 'k6/metrics';
import { summary } from './lib/dam.js';
import { BASE, NOTHING_LEAKED, SHORT, ask, countLeaks, options as runOptions, seconds, steady, value } from './lib/load.js';

const LOAD = 10;
const GREEDY = 0.7;
const LIGHT = 9;
const LENGTH = seconds(40, 10);
// While the gateway learns who is who, and before the first answers have ended, shares are chance.
const WARM = 3;
// Of an equal share, 1 in 10, the light callers together are to have so much at the least. Some 250 answers of a short run
// say no more than that nobody is shut out.
const LEAST = SHORT ? 0.85 : 0.95;

// 1 for each good answer that went to a light caller, 0 for one to the greedy.
const light = new Rate('light_share');

export const options = runOptions(
  {
    greedy: steady(LOAD * GREEDY, LENGTH, { exec: 'greedy' }),
    light: steady(LOAD * (1 - GREEDY), LENGTH, { exec: 'others' }),
  },
  Object.assign({ light_share: [`rate>=${(LEAST * LIGHT) / (LIGHT + 1)}`], good: ['count>0'] }, NOTHING_LEAKED)
);

function turn(caller) {
  const answer = ask(BASE, { caller });
  const began = exec.instance.currentTestRunDuration / 1000;
  if (answer.outcome === 'admitted' && began > WARM) light.add(caller !== 'greedy');
}

export const greedy = () => turn('greedy');
export const others = () => turn(`light-${exec.scenario.iterationInTest % LIGHT}`);
export const teardown = countLeaks;

export function handleSummary(data) {
  const share = (value(data, 'light_share', 'rate') / LIGHT) * (LIGHT + 1);
  return { stdout: summary(data, [`fairness   light callers have ${share.toFixed(3)} of an equal share`]) };
}
