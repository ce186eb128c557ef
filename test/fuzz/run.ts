/**
 * `npm run fuzz -- TARGET [--seconds N] [--seed N] [--path P]`: tries inputs until one breaks what
 * must hold, or time is up. The failing input is made as small as can be, and comes again by its
 * seed and path.
 */
import { parseArgs } from 'node:util';
import { sharedFolder } from './fs.ts';
import { fuzz } from './fuzz.ts';
import { vhostUserBackend } from './vhost-user-backend.ts';
import { vhostUserFrontend } from './vhost-user-frontend.ts';

const TARGETS = {
  [sharedFolder.name]: (run: Parameters<typeof fuzz>[1]) => fuzz(sharedFolder, run),
  [vhostUserBackend.name]: (run: Parameters<typeof fuzz>[1]) => fuzz(vhostUserBackend, run),
  [vhostUserFrontend.name]: (run: Parameters<typeof fuzz>[1]) => fuzz(vhostUserFrontend, run),
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string' }, seed: { type: 'string' }, path: { type: 'string' } },
});
const [name = ''] = positionals;
const seconds = Number(values.seconds ?? 60);
const seed = Number(values.seed ?? Date.now() & 0x7fff_ffff);
const target = TARGETS[name];
if (target === undefined || !(seconds > 0) || !Number.isInteger(seed)) {
  console.error(`usage: npm run fuzz -- TARGET [--seconds N] [--seed N] [--path P]
targets: ${Object.keys(TARGETS).join(', ')}`);
  process.exitCode = 2;
} else {
  console.log(`${name}: seed ${seed}, ${seconds} s`);
  const { path } = values;
  const { inputs, failure } = await target({
    seed,
    seconds,
    ...(path === undefined ? {} : { path }),
  });
  console.log(failure ?? `nothing found in ${inputs} inputs`);
  process.exitCode = failure === undefined ? 0 : 1;
}
