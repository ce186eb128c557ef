/** What is opened is closed, last first, whatever happens. */
import t from 'tap';
import { AsyncCleanupStack, CleanupStack } from '../../../src/host/cleanup-stack.ts';

t.test('undoes everything once, last first', async (t) => {
  const undone: string[] = [];
  const stack = new CleanupStack();
  const resource = { [Symbol.dispose]: () => undone.push('used') };
  t.equal(stack.use(resource), resource);
  t.equal(stack.use(undefined), undefined);
  t.equal(
    stack.adopt(7, (value) => undone.push(`adopted ${value}`)),
    7,
  );
  stack.defer(() => undone.push('deferred'));
  t.notOk(stack.disposed);
  stack.dispose();
  stack.dispose();
  t.ok(stack.disposed);
  t.same(undone, ['deferred', 'adopted 7', 'used']);
});

t.test('what is added after the end is undone at once', async (t) => {
  const stack = new CleanupStack();
  stack.dispose();
  let undone = false;
  stack.defer(() => {
    undone = true;
  });
  t.ok(undone);
});

t.test('one that fails keeps none of the others', async (t) => {
  const undone: number[] = [];
  const stack = new CleanupStack();
  stack.defer(() => undone.push(1));
  for (const number of [2, 3]) {
    stack.defer(() => {
      undone.push(number);
      throw new Error(String(number));
    });
  }
  t.throws(() => stack.dispose(), { message: '3' });
  t.same(undone, [3, 2, 1]);
});

t.test('what was moved belongs to the new stack', async (t) => {
  const undone: string[] = [];
  let moved: CleanupStack;
  {
    using stack = new CleanupStack();
    stack.defer(() => undone.push('undone'));
    moved = stack.move();
  }
  t.same(undone, []);
  moved.dispose();
  t.same(undone, ['undone']);
});

t.test('an asynchronous stack waits for each', async (t) => {
  const undone: string[] = [];
  const stack = new AsyncCleanupStack();
  stack.use({ [Symbol.dispose]: () => undone.push('sync') });
  stack.use({
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => setImmediate(resolve));
      undone.push('async');
    },
  });
  stack.use(null);
  stack.adopt('value', async (value) => void undone.push(value));
  stack.defer(() => {
    throw new Error('one fails');
  });
  const moved = stack.move();
  await stack.disposeAsync();
  t.same(undone, []);
  t.throws(() => stack.defer(() => {}), { code: 'E_INTERNAL' });
  await t.rejects(moved.disposeAsync(), { message: 'one fails' });
  t.ok(moved.disposed);
  t.same(undone, ['value', 'async', 'sync']);
});

t.test('an asynchronous stack ends with its block', async (t) => {
  const undone: string[] = [];
  {
    await using stack = new AsyncCleanupStack();
    stack.defer(async () => void undone.push('undone'));
  }
  t.same(undone, ['undone']);
});
