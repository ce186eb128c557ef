// Two kernels, a machine for each test. Run: node --test node.test.mjs
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { kernels, machineFor } from 'nodevmm/node-test';

for (const guestKernel of kernels('6.1', '6.12')) {
  test(`Linux ${guestKernel} has its entropy from the host`, async (t) => {
    const vm = await machineFor(t, { guestKernel, memory: 256 * 2 ** 20, check: true });
    const { stdout } = await vm.exec(['uname', '-r']);
    assert.ok(stdout.toString().startsWith(`${guestKernel}.`));
    const rng = await vm.exec(['cat', '/sys/class/misc/hw_random/rng_current']);
    assert.match(rng.stdout.toString(), /^virtio_rng/);
    assert.deepEqual(vm.breaches, []);
  });
}
