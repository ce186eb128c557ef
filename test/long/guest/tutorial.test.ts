/** The tutorials' drivers and devices in guests, by their own commands. */
import t, { type Test } from 'tap';
import { promisedBy, runTutorial, type TutorialPage } from '../../support/fixtures/tutorial.ts';

/** Runs a tutorial, and looks for what it promises in that order. */
async function prints(
  t: Test,
  page: TutorialPage,
  wanted: (commands: string) => boolean,
): Promise<void> {
  const { status, stdout, stderr } = await runTutorial(page, wanted);
  t.equal(status, 0, status === 0 ? 'all run' : stdout + stderr);
  const printed = stdout.split('\n');
  const promised = promisedBy(page);
  let at = -1;
  for (const line of promised) {
    at = printed.indexOf(line, at + 1);
    t.ok(at >= 0, `${line}, in ${JSON.stringify(printed)}`);
  }
  t.ok(promised.length > 0);
}

t.test('device and driver talk, and the driver comes back with new code', (t) =>
  prints(t, 'tutorial-first-device.md', (commands) => !commands.includes('nodevmm device test')),
);

t.test('a driver in userland gets random bytes, and no more than it may', (t) =>
  prints(t, 'tutorial-first-driver.md', () => true),
);
