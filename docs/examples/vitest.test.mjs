// Two kernels, a machine for all tests of each. Run: npx vitest run vitest.test.mjs --testTimeout 120000

import { kernels, machineTest } from 'nodevmm/vitest';
import { describe, expect } from 'vitest';

const matrix = kernels('6.1', '6.12').map((guestKernel) => ({
  guestKernel,
  test: machineTest({ guestKernel, memory: 256 * 2 ** 20, check: true }, { scope: 'file' }),
}));

describe.each(matrix)('Linux $guestKernel', ({ guestKernel, test }) => {
  test('is the one that was asked for', async ({ vm }) => {
    const { stdout } = await vm.exec(['uname', '-r']);
    expect(stdout.toString()).toContain(`${guestKernel}.`);
  });

  test('sorts', async ({ vm }) => {
    const { stdout } = await vm.exec(['sort'], { input: 'b\na\n' });
    expect(stdout.toString()).toBe('a\nb\n');
    expect(vm.breaches).toEqual([]);
  });
});
