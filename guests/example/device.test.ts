/** What the device promises to any driver, without a guest: `nodevmm device test` runs it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestDriver } from 'nodevmm/testing';
import device from './device.ts';

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');

for (const packed of [false, true]) {
  const ring = packed ? 'packed' : 'split';

  test(`${ring}: a text comes back in capitals`, async () => {
    using driver = new TestDriver(device, { packed });
    const answer = await driver.request('requestq', Buffer.from('Hello'), 5);
    assert.equal(text(answer), 'HELLO');
  });

  test(`${ring}: any bytes, in any number of segments, come back as many as there is room for`, async () => {
    using driver = new TestDriver(device, { packed });
    for (let round = 0; round < 200; round++) {
      const parts = Array.from({ length: 1 + random(4) }, () => randomBytes(1 + random(40)));
      const room = Array.from({ length: 1 + random(4) }, () => 1 + random(40));
      const sent = driver.send('requestq', { readable: parts, writable: room });
      const { data } = await driver.answer(sent);
      const expected = text(Buffer.concat(parts)).replace(/[a-z]/g, (c) => c.toUpperCase());
      const total = room.reduce((sum, length) => sum + length, 0);
      assert.equal(text(data), expected.slice(0, total));
    }
    assert.equal(driver.needsReset, undefined);
  });
}

test('the driver may ask for rotated letters, once it accepted MODE', async () => {
  using driver = new TestDriver(device);
  driver.writeConfig('mode', 1);
  assert.equal(text(await driver.request('requestq', Buffer.from('Hello'), 5)), 'Uryyb');
  using old = new TestDriver(device, { features: [] });
  old.writeConfig('mode', 1);
  assert.equal(text(await old.request('requestq', Buffer.from('Hello'), 5)), 'HELLO');
});

test('requests are counted in the configuration space, and the driver hears of it', async () => {
  using driver = new TestDriver(device);
  await driver.request('requestq', Buffer.from('a'), 1);
  await driver.request('requestq', Buffer.from('b'), 1);
  assert.equal(driver.readConfig('served'), 2);
  assert.equal(driver.configChanges, 2);
});

const random = (below: number): number => Math.floor(Math.random() * below);
const randomBytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => random(256));
