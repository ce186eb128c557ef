// A kernel module, compiled for the guest's kernel and loaded there. Run: node --test module.test.mjs
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { machineFor } from 'nodevmm/node-test';

const modules = [fileURLToPath(new URL('hello', import.meta.url))];

test('the module greets, and leaves nothing behind', async (t) => {
  const vm = await machineFor(t, { modules, memory: 256 * 2 ** 20 });
  const sh = async (script) => (await vm.exec(['sh', '-ec', script])).stdout.toString();

  await sh('dmesg -c >/dev/null'); // What the boot has printed.
  assert.equal(await sh('modprobe hello name=nodevmm; cat /proc/hello'), 'hello, nodevmm\n');
  assert.equal(await sh('rmmod hello; [ -e /proc/hello ] || echo gone'), 'gone\n');
  assert.equal(await sh("dmesg | grep -E 'WARNING|BUG:|Oops' || true"), '');
});
