// Tests the `openai` and `@anthropic-ai/sdk` packages for Node through a running gateway
// (scripts/real-clients starts one). Reads DAM_URL. Each property of `checks` is one check.

import { createRequire } from 'node:module';
import assert from 'node:assert/strict';

// The packages are not installed beside this file.
const require = createRequire(`${process.env.NODE_CLIENTS}/`);
const OpenAI = require('openai').default;
const Anthropic = require('@anthropic-ai/sdk').default;

const ASK = [{ role: 'user', content: 'Why does water find its level?' }];
const NOW = { name: 'now', input_schema: { type: 'object', properties: {} } };

const openai = (apiKey = 'sk-test-steady', maxRetries = 0) =>
  new OpenAI({ apiKey, baseURL: `${process.env.DAM_URL}/v1`, maxRetries });
const anthropic = (apiKey = 'sk-test-steady', maxRetries = 0) =>
  new Anthropic({ apiKey, baseURL: process.env.DAM_URL, maxRetries });
const chat = (client, more = {}) =>
  client.chat.completions.create({ model: 'sim', messages: ASK, max_tokens: 8, ignore_eos: true, ...more });
const say = (client, more = {}) =>
  client.messages.create({ model: 'sim', messages: ASK, max_tokens: 8, ignore_eos: true, ...more });

// Calls until each of `times` calls was served; returns the retries that each took.
async function retriesOf(client, call, times) {
  const taken = [];
  const fetched = client.fetch;
  let calls = 0;
  client.fetch = (...request) => {
    calls += 1;
    return fetched(...request);
  };
  for (let time = 0; time < times; time += 1) {
    const before = calls;
    await call(client);
    taken.push(calls - before - 1);
  }
  return taken;
}

const checks = {
  async 'openai: a chat and its stream'() {
    const whole = await chat(openai());
    assert.equal(whole.usage.completion_tokens, 8);
    let text = '';
    for await (const chunk of await chat(openai(), { stream: true })) text += chunk.choices[0]?.delta.content ?? '';
    assert.equal(text, whole.choices[0].message.content);
  },
  async 'anthropic: a message and its stream'() {
    const whole = await say(anthropic());
    assert.deepEqual([whole.stop_reason, whole.usage.output_tokens], ['max_tokens', 8]);
    const stream = anthropic().messages.stream({ model: 'sim', messages: ASK, max_tokens: 8, ignore_eos: true });
    const message = await stream.finalMessage();
    assert.deepEqual(message.content[0].text, whole.content[0].text);
  },
  async 'anthropic: a tool, and counting'() {
    const tools = { tools: [NOW], tool_choice: { type: 'tool', name: 'now' } };
    const body = { model: 'sim', messages: ASK, max_tokens: 12, ignore_eos: true, ...tools };
    const message = await anthropic().messages.stream(body).finalMessage();
    assert.deepEqual([message.stop_reason, message.content[0].name], ['tool_use', 'now']);
    assert.ok(message.content[0].input.words);
    assert.equal((await anthropic().messages.countTokens({ model: 'sim', messages: ASK })).input_tokens, 8);
  },
  async 'both: errors have their types'() {
    await assert.rejects(chat(openai('sk-of-nobody')), OpenAI.AuthenticationError);
    await assert.rejects(say(anthropic('sk-of-nobody')), (error) => {
      assert.ok(error instanceof Anthropic.AuthenticationError);
      assert.equal(error.error.error.type, 'authentication_error');
      return Boolean(error.requestID);
    });
    await assert.rejects(say(anthropic(), { system: 'x'.repeat(100_000) }), (error) => error.status === 413);
    await assert.rejects(anthropic().messages.batches.list(), Anthropic.NotFoundError);
  },
  async 'both: one retry is enough'() {
    // A second refusal would be an exception.
    const hasty = await retriesOf(openai('sk-test-hasty', 1), (client) => chat(client, { max_tokens: 1 }), 3);
    const other = await retriesOf(anthropic('sk-test-anthropic-hasty', 1), (client) => say(client, { max_tokens: 1 }), 3);
    console.log(`node: retries until each of three calls was served: openai ${hasty}, anthropic ${other}`);
  },
  async 'both: a wait of an hour is one call'() {
    for (const [client, call, kind] of [
      [openai('sk-test-rare', 5), chat, OpenAI.RateLimitError],
      [anthropic('sk-test-anthropic-rare', 5), say, Anthropic.RateLimitError],
    ]) {
      await call(client);
      const began = Date.now();
      await assert.rejects(call(client), (error) => {
        assert.equal(error.headers.get('x-should-retry'), 'false');
        return error instanceof kind;
      });
      assert.ok(Date.now() - began < 5000);
    }
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    failed += 1;
    console.error(`${name}:`, error);
  }
}
console.log(`node-clients: ${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
