/** Which programs are run: never those of whatever folder we are in. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { findProgram } from '../../../src/guest/programs.ts';

t.test('relative and empty entries of PATH are passed over', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-test-'));
  const before = process.cwd();
  t.teardown(() => {
    process.chdir(before);
    rmSync(folder, { recursive: true });
  });
  const program = path.join(folder, 'tool');
  writeFileSync(program, '#!/bin/sh\n');
  process.chdir(folder);
  t.equal(findProgram('tool', [folder]), undefined, 'it cannot be run yet');
  chmodSync(program, 0o755);
  t.equal(findProgram('tool', ['', '.', '..', path.basename(folder)]), undefined);
  t.equal(findProgram('tool', ['.', folder]), program);
  t.end();
});
