/** A promise that is waited for, and one that is not. */
import t from 'tap';
import { inTime } from '../../../src/host/deadline.ts';

const never = new Promise<never>(() => {});
const LONG_MS = 3_600_000;

t.test('in time it settles as the promise does', async (t) => {
  t.equal(await inTime(Promise.resolve('early'), LONG_MS, () => 'late'), 'early');
  t.equal(await inTime(Promise.resolve(undefined), LONG_MS, () => 'late'), undefined);
  await t.rejects(
    inTime(Promise.reject(new Error('failed')), LONG_MS, () => 'late'),
    { message: 'failed' },
  );
});

t.test('later as its caller has it', async (t) => {
  t.equal(await inTime(never, 0, () => 'late'), 'late');
  const refuse = (): never => {
    throw new Error('late');
  };
  await t.rejects(inTime(never, 0, refuse), { message: 'late' });
});
