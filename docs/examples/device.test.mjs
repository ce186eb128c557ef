// A device, alone and in a guest. Needs esbuild. Run: node --test device.test.mjs
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { machineFor } from 'nodevmm/node-test';
import { TestDriver } from 'nodevmm/testing';
import counting from './counting.mjs';

test('counts, without a guest', async () => {
  const driver = new TestDriver(counting);
  const bytes = await driver.request('requestq', new Uint8Array(), 4);
  assert.deepEqual([...bytes], [1, 2, 3, 4]);
  driver.close();
});

test('counts for Linux', async (t) => {
  const module = fileURLToPath(new URL('counting.mjs', import.meta.url));
  const devices = [{ module, options: { step: '2' } }];
  const vm = await machineFor(t, { devices, rng: false, memory: 256 * 2 ** 20, check: true });
  const { stdout } = await vm.exec(['head', '-c', '16', '/dev/hwrng']);
  const steps = [...stdout].slice(1).map((byte, index) => (byte - stdout[index] + 256) % 256);
  assert.deepEqual(steps, Array(15).fill(2));
  assert.deepEqual(vm.breaches, []);
});
