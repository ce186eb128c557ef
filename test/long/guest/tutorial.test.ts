/** The tutorial's driver and device in a guest, by its own commands. */
import t from 'tap';
import { promised, runTutorial } from '../../support/fixtures/tutorial.ts';

t.test('device and driver talk, and the driver comes back with new code', async (t) => {
  const { status, stdout, stderr } = await runTutorial(
    (commands) => !commands.includes('nodevmm device test'),
  );
  t.equal(status, 0, status === 0 ? 'all run' : stdout + stderr);
  const printed = stdout.split('\n');
  let at = -1;
  for (const line of promised) {
    at = printed.indexOf(line, at + 1);
    t.ok(at >= 0, `${line}, in ${JSON.stringify(printed)}`);
  }
  t.ok(promised.length > 0);
});
