/** Which folder the lab shares as the project's. */
import t from 'tap';
import { projectFolder } from '../../../src/host/package-folder.ts';

const withManifest = (path: string): boolean => path === '/home/me/app/package.json';

for (const [what, folder, project] of [
  ['a checkout', '/home/me/nodevmm', '/home/me/nodevmm'],
  ['npm', '/home/me/app/node_modules/nodevmm', '/home/me/app'],
  ['pnpm', '/home/me/app/node_modules/.pnpm/nodevmm@0.1.0/node_modules/nodevmm', '/home/me/app'],
  ['a global installation', '/usr/lib/node_modules/nodevmm', '/usr/lib/node_modules'],
] as const) {
  t.equal(projectFolder(folder, withManifest), project, what);
}
