/** How commands fail when the machine of a lab ends; the real agent plays the machine. */
import { spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { agentBinary } from '../../../src/guest/executables.ts';
import { awaitAgent } from '../../../src/lab/await-agent.ts';

for (const [last, message] of [
  ['[    9.1] reboot: Power down', /^the lab powered off before the command had ended$/],
  ['[    9.1] reboot: Restarting system', /^the lab was restarted, which ends it, before/],
  ['[    9.1] Kernel panic', /^the lab died: qemu ended \(SIGKILL\).*Kernel panic$/s],
] as const) {
  t.test(`a lab whose console ends with ${last}`, async (t) => {
    const process = spawn(agentBinary, ['3'], {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    });
    const agent = await awaitAgent({
      name: 'qemu',
      process,
      console: () => ['Linux version 6.12', last],
      connect: async () => process.stdio[3] as Duplex,
      timeoutMs: 2 ** 30,
    });
    const running = agent.spawn(['sleep', '1000']);
    await running.started;
    process.kill('SIGKILL');
    await t.rejects(running.exit, { code: 'E_LAB_GONE', message });
  });
}
