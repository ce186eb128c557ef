import t from 'tap';
import { doctorTable } from '../../../src/cli/doctor.ts';
import { columns, wrap } from '../../../src/cli/terminal/text-table.ts';
import { type DoctorRow, doctor } from '../../../src/machine/doctor.ts';

const ROWS: readonly DoctorRow[] = [
  { what: 'KVM', status: 'ok', found: 'API 12', enables: 'virtual machines', remedy: '' },
  {
    what: 'vhost-net',
    status: 'missing',
    found: '/dev/vhost-net: ENOENT',
    enables: 'network queues served by the kernel',
    remedy: 'modprobe vhost_net',
  },
];

t.test('wrap breaks at spaces, and inside of words that are too long', (t) => {
  t.same(wrap('one two three', 7), ['one two', 'three']);
  t.same(wrap('abcdefgh ij', 3), ['abc', 'def', 'gh', 'ij']);
  t.same(wrap('', 5), ['']);
  t.same(columns(['a b', 'c'], [1, 1]), ['a  c', 'b']);
  t.end();
});

t.test('the table is aligned, and shows how to get what is missing', (t) => {
  t.same(doctorTable(ROWS, 90), [
    'status   what       found                                   enables',
    'ok       KVM        API 12                                  virtual machines',
    'missing  vhost-net  /dev/vhost-net: ENOENT                  network queues served by the',
    '                                                            kernel',
    '                    get it: modprobe vhost_net',
  ]);
  t.end();
});

t.test('a narrow terminal gets blocks that fit', (t) => {
  const lines = doctorTable(ROWS, 40);
  t.ok(lines.every((line) => line.length <= 40));
  t.same(lines.slice(0, 3), ['KVM: ok', '  found: API 12', '  enables: virtual machines']);
  t.equal(lines.at(-1), '  get it: modprobe vhost_net');
  t.end();
});

t.test('this host: every row is filled, and what is missing has a remedy', (t) => {
  const rows = doctor();
  t.ok(rows.length > 10);
  for (const { what, status, found, enables, remedy } of rows) {
    t.not(found, '', `${what}: found`);
    t.not(enables, '', `${what}: enables`);
    t.equal(remedy === '', status === 'ok', `${what}: remedy`);
  }
  t.end();
});
