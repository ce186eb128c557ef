/** The tutorials' steps that need no guest, verbatim. */
import t from 'tap';
import { runTutorial } from '../support/fixtures/tutorial.ts';

t.test('each step of the device passes its test', async (t) => {
  const { status, stdout, stderr } = await runTutorial(
    'tutorial-first-device.md',
    (commands) => !/nodevmm (run|guest)/.test(commands),
  );
  t.equal(status, 0, status === 0 ? 'all run' : stdout + stderr);
  const passed = [...stdout.matchAll(/^# pass (\d+)$/gm)].map(([, count]) => Number(count));
  t.same(passed, [1, 1, 1, 2, 1], 'status, features, notifications, virtqueues, configuration');
});

t.test('the driver compiles without a warning', async (t) => {
  const { status, stdout, stderr } = await runTutorial(
    'tutorial-first-driver.md',
    (commands) => !commands.includes('nodevmm run'),
  );
  t.equal(status, 0, status === 0 ? 'all run' : stdout + stderr);
  t.equal(stderr, '');
});
