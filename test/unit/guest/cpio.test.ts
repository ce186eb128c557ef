/** The newc format, read back by its description (buffer-format.rst). */
import t from 'tap';
import { CpioArchive } from '../../../src/guest/cpio.ts';

interface Member {
  readonly name: string;
  readonly fields: readonly number[];
  readonly data: string;
}

/** Fields in the header's order: ino mode uid gid nlink mtime filesize devmajor ... namesize check. */
function members(archive: Buffer): Member[] {
  const found: Member[] = [];
  const align = (at: number): number => (at + 3) & ~3;
  for (let at = 0; at < archive.length; ) {
    if (archive.toString('latin1', at, at + 6) !== '070701') throw new Error(`no header at ${at}`);
    const field = (i: number): number =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16);
    const fields = Array.from({ length: 13 }, (_, i) => field(i));
    const name = archive.toString('utf8', at + 110, at + 110 + field(11) - 1);
    const data = align(at + 110 + field(11));
    found.push({ name, fields, data: archive.toString('utf8', data, data + field(6)) });
    at = align(data + field(6));
  }
  return found;
}

t.test('entries carry their type, permissions and data; parents come by themselves', async (t) => {
  const cpio = new CpioArchive();
  cpio.file('a/b/file', 'text', 0o755);
  cpio.symlink('link', 'a/b/file');
  cpio.characterDevice('dev/console', 5, 1);
  const found = members(cpio.bytes());
  t.same(
    found.map(({ name }) => name),
    ['a', 'a/b', 'a/b/file', 'dev', 'dev/console', 'link', 'TRAILER!!!'],
  );
  const mode = (name: string): number | undefined => found.find((m) => m.name === name)?.fields[1];
  t.equal(mode('a'), 0o040755);
  t.equal(mode('a/b/file'), 0o100755);
  t.equal(mode('link'), 0o120777);
  t.equal(mode('dev/console'), 0o020600);
  t.same(found.find((m) => m.name === 'dev/console')?.fields.slice(9, 11), [5, 1], 'rdev');
  t.equal(found.find((m) => m.name === 'a/b/file')?.data, 'text');
  t.equal(found.find((m) => m.name === 'link')?.data, 'a/b/file');
});

t.test('the same entries give the same bytes, in whatever order they came', async (t) => {
  const names = ['usr/bin/x', 'bin/sh', 'init', 'etc/é'];
  const write = (order: readonly string[]): Buffer => {
    const cpio = new CpioArchive();
    for (const name of order) cpio.file(name, name);
    return cpio.bytes();
  };
  t.ok(write(names).equals(write([...names].reverse())));
  t.ok(
    members(write(names)).every(({ fields }) => fields[5] === 0),
    'no times',
  );
});

t.test('paths outside the root are refused', async (t) => {
  const cpio = new CpioArchive();
  for (const path of ['/etc/passwd', '../x', 'a/../../x', '']) {
    t.throws(() => cpio.file(path, ''), { code: 'E_INTERNAL' });
  }
});
