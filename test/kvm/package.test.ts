/** The installed package in other programs' surroundings: workers, test runners, bundles, other runtimes. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { elfKernel, HALT, KERNEL_GPA, out, print } from '../support/fixtures/kernel-image.ts';
import { PackageUser } from '../support/rigs/installed-package.ts';
import { kvmMissing } from './tiny-guest.ts';

t.setTimeout(600_000);
const skip = kvmMissing();
const { project } = await PackageUser.install();
t.teardown(() => project.close());

/** Prints a line and powers off. */
const bytes = Uint8Array.from([...print('hello\n'), ...out(0x605, 0x34), ...HALT]);
writeFileSync(
  join(project.path, 'kernel'),
  elfKernel({ segments: [{ paddr: KERNEL_GPA, bytes }], pvhEntry: KERNEL_GPA }),
);
project.write(
  'machine.mjs',
  `import { VirtualMachine } from 'nodevmm';
export async function runMachine() {
  const vm = await VirtualMachine.create({ kernel: ${JSON.stringify(join(project.path, 'kernel'))}, memory: 64 << 20 });
  let printed = '';
  vm.serial.on('data', (chunk) => { printed += chunk; });
  await vm.start();
  const { reason } = await vm.wait();
  await vm.close();
  return \`\${reason}: \${printed}\`;
}
`,
);
const EXPECTED = 'power-off: hello\n';

t.test('in a worker, several at a time', { skip }, async (t) => {
  project.write(
    'worker.mjs',
    `import { isMainThread, parentPort, Worker } from 'node:worker_threads';
if (isMainThread) {
  const run = () => new Promise((resolve, reject) =>
    new Worker(new URL(import.meta.url)).on('message', resolve).on('error', reject));
  for (const text of await Promise.all([run(), run()])) process.stdout.write(text);
} else {
  const { runMachine } = await import('./machine.mjs');
  parentPort.postMessage(await runMachine());
}
`,
  );
  t.equal(await project.run('node', 'worker.mjs'), EXPECTED.repeat(2));
});

t.test('in CommonJS, by import()', { skip }, async (t) => {
  project.write(
    'main.cjs',
    "import('./machine.mjs').then((m) => m.runMachine()).then(console.log)",
  );
  t.equal(await project.run('node', 'main.cjs'), `${EXPECTED}\n`);
});

for (const pool of ['forks', 'threads']) {
  t.test(`in vitest's ${pool}`, { skip }, async (t) => {
    await project.add('--no-save', 'vitest@4.1.12');
    for (const name of ['a', 'b']) {
      project.write(
        `${name}.test.mjs`,
        `import { expect, test } from 'vitest';
import { runMachine } from './machine.mjs';
test('a machine', async () => expect(await runMachine()).toBe(${JSON.stringify(EXPECTED)}), 60_000);
`,
      );
    }
    const argv = ['run', `--pool=${pool}`, '--reporter=json', '--root', project.path];
    const text = await project.run('node', 'node_modules/vitest/vitest.mjs', ...argv);
    const report = JSON.parse(text) as { numPassedTests: number; success: boolean };
    t.match(report, { numPassedTests: 2, success: true });
  });
}

for (const format of ['esm', 'cjs']) {
  t.test(
    `bundled as ${format}: it runs when it is external, else it says so`,
    { skip },
    async (t) => {
      await project.add('--no-save', 'esbuild@0.28.2');
      project.write(
        'entry.mjs',
        "import('./machine.mjs').then((m) => m.runMachine()).then(console.log)",
      );
      const file = `bundle.${format === 'esm' ? 'mjs' : 'cjs'}`;
      const bundle = async (...more: readonly string[]): Promise<string> => {
        const options = ['--bundle', '--platform=node', `--format=${format}`, `--outfile=${file}`];
        await project.run('npx', 'esbuild', 'entry.mjs', '--log-level=error', ...options, ...more);
        return await project.run('node', file).catch(String);
      };
      t.equal(await bundle('--external:nodevmm'), `${EXPECTED}\n`);
      t.match(await bundle(), /^UsageError: nodevmm is bundled .*external: \['nodevmm'\]$/m);
    },
  );
}

/** Each as a program makes itself look like that runtime. */
const RUNTIMES: Readonly<Record<string, string>> = {
  'Bun 1.4.5': "Object.defineProperty(process.versions, 'bun', { value: '1.4.5' })",
  Deno: 'globalThis.Deno = {}',
};
for (const [name, fake] of Object.entries(RUNTIMES)) {
  t.test(`${name} is refused in one line, before native code is loaded`, async (t) => {
    const flag = ['--import', `data:text/javascript,${encodeURIComponent(fake)}`];
    for (const entry of ['nodevmm', 'nodevmm/testing', 'nodevmm/device', 'nodevmm/node-test']) {
      project.write(
        'runtime.mjs',
        `import { readFileSync } from 'node:fs';
await import('${entry}').catch((error) => console.log(error.code, error.message));
console.log(readFileSync('/proc/self/maps', 'latin1').includes('koffi'));
`,
      );
      const text = await project.run('node', ...flag, 'runtime.mjs');
      t.equal(text, `E_NODE ${name} is not supported; run nodevmm with Node.js\nfalse\n`, entry);
    }
    const main = 'node_modules/nodevmm/dist/bundle/bin/main.js';
    const failed = await project
      .run('node', ...flag, main, 'doctor')
      .catch((error: { code: number; stderr: string }) => error);
    const stderr = `nodevmm: ${name} is not supported; run nodevmm with Node.js\n`;
    t.match(failed, { code: 2, stderr });
  });
}
