// One caller sends 70 % of ten times the capacity. Nine others share the rest, each at three times
// its fair share. The greedy caller must not reduce the others' shares.

import exec from 'k6/execution';
import { Rate } from 'k6/metrics';
import { summary } from './lib/dam.js';
import { BASE, NOTHING_LEAKED, ask, countLeaks, options as runOptions, seconds, steady, value } from './lib/load.js';

const LOAD = 10;
const GREEDY = 0.7;
const LIGHT = 9;
const LENGTH = seconds(40, 10);
// Shares are random until the gateway knows the callers and the first answers have ended.
const WARM = 3;
// Least part of an equal share (1 in 10) that the light callers together must get.
const LEAST = 0.95;

// 1 for each good answer to a light caller, 0 for one to the greedy caller.
const light = new Rate('light_share');

export const options = runOptions(
  {
    greedy: steady(LOAD * GREEDY, LENGTH, { exec: 'greedy' }),
    light: steady(LOAD * (1 - GREEDY), LENGTH, { exec: 'others' }),
  },
  Object.assign({ light_share: [`rate>=${(LEAST * LIGHT) / (LIGHT + 1)}`] }, NOTHING_LEAKED)
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
