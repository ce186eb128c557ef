/** A short run of the fuzz targets, always with the same inputs. Longer ones: `npm run fuzz`. */
import t from 'tap';
import { fuzz } from './fuzz.ts';
import { checkLines, type FuzzTarget } from './target.ts';
import { vhostUserBackend } from './vhost-user-backend.ts';
import { vhostUserFrontend } from './vhost-user-frontend.ts';

const INPUTS = 300;

t.test('frontends that send anything', async (t) => {
  t.same(await fuzz(vhostUserBackend, { seed: 1, inputs: INPUTS }), { inputs: INPUTS });
});

t.test('backends that answer anything', async (t) => {
  t.same(await fuzz(vhostUserFrontend, { seed: 1, inputs: INPUTS }), { inputs: INPUTS });
});

t.test('a failure is reported with the smallest input, and how to reproduce it', async (t) => {
  const { name, input } = vhostUserBackend;
  const target: FuzzTarget<
    Parameters<Awaited<ReturnType<typeof vhostUserBackend.open>>['run']>[0]
  > = {
    name,
    input,
    open: async () => ({
      run: async ({ steps }) => {
        if (steps.some((step) => step.do === 'truncate')) checkLines(['RangeError'], /./);
      },
      [Symbol.asyncDispose]: async () => {},
    }),
  };
  const { failure = '' } = await fuzz(target, { seed: 1, inputs: INPUTS });
  t.match(failure, /^failed: reported: RangeError\n/);
  t.match(failure, /the smallest input found: .*"do":"truncate"/);
  const path = /--path ([\d:]+)$/.exec(failure)?.[1] ?? '';
  const again = await fuzz(target, { seed: 1, path, inputs: 1 });
  t.equal(again.failure?.split('\n')[1], failure.split('\n')[1], 'the path leads there');
});
