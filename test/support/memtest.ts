/** memtest86+ from its Debian package: a bzImage without a payload, for either entry of Linux' boot protocol. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder } from '../../src/guest/cache.ts';
import { downloadPackage, unpackPackage } from '../../src/guest/debian.ts';

/** What messages and the test runner know it by. */
export const MEMTEST_PACKAGE = 'memtest86+';

/** The folder with `memtest86+x64.bin` and `memtest86+ia32.bin`, unpacked anew, and gone when disposed of. */
export async function memtestImages(): Promise<{ readonly folder: string } & Disposable> {
  const deb = await downloadPackage(MEMTEST_PACKAGE);
  const root = join(cacheFolder(), `memtest-${process.pid}`);
  await unpackPackage(deb, root);
  return {
    folder: join(root, 'boot'),
    [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }),
  };
}
