/** `nodevmm guest build` for scripts: what it prints, and what is there. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import t from 'tap';

const build = async (...args: string[]): Promise<string> => {
  const argv = ['dist/src/cli/main.js', 'guest', 'build', ...args];
  return (await promisify(execFile)(process.execPath, argv)).stdout;
};

/** Linux/x86 boot protocol: the signature of the setup header. */
const isKernel = (file: string): boolean =>
  readFileSync(file).toString('latin1', 0x202, 0x206) === 'HdrS';
const isInitramfs = (file: string): boolean =>
  readFileSync(file).toString('latin1', 0, 6) === '070701';

t.test('it prints the path of the kernel and that of the initramfs', async (t) => {
  const lines = (await build()).split('\n');
  t.equal(lines.length, 3, 'two lines');
  const [kernel = '', initrd = ''] = lines;
  t.ok(isKernel(kernel), kernel);
  t.ok(isInitramfs(initrd), initrd);
});

t.test('two lines for each image, in their order', async (t) => {
  const lines = (await build('minimal', 'minimal')).trimEnd().split('\n');
  t.equal(lines.length, 4);
  t.strictSame(lines.slice(0, 2), lines.slice(2));
});

t.test('--json shows all details', async (t) => {
  const guests = JSON.parse(await build('--json', 'minimal'));
  const [kernel, initrd] = (await build('minimal')).split('\n');
  t.match(guests, [{ name: 'minimal', kernel, initrd, initrdSize: Number }]);
});
