/** A short run of the shared folder's fuzz target, always with the same inputs. Longer ones: `npm run fuzz -- fs`. */
import t from 'tap';
import { sharedFolder } from './fs.ts';
import { fuzz } from './fuzz.ts';

const INPUTS = 300;

t.test('guests that ask anything', async (t) => {
  t.same(await fuzz(sharedFolder, { seed: 1, inputs: INPUTS }), { inputs: INPUTS });
});
