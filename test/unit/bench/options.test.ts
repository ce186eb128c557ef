import t from 'tap';
import { argumentsOf, type BenchOptions, parseRequest } from '../../../bench/options.ts';
import { select } from '../../../bench/subjects/selection.ts';

const GROUPS = [
  { name: 'net', summary: '' },
  { name: 'blk', summary: '' },
];
const PROGRAMS = [{ name: 'queue-walk', summary: '' }];

const parse = (...args: string[]) => parseRequest(args, GROUPS, PROGRAMS);

function optionsOf(...args: string[]): BenchOptions {
  const request = parse(...args);
  if (request.kind !== 'measure') throw new Error(`it is ${request.kind}`);
  return request.options;
}

t.test('defaults, and what --quick makes of them', (t) => {
  t.match(optionsOf(), { names: [], rounds: 4, seconds: 2, repeat: 1, quick: false, lab: true });
  t.match(optionsOf('--quick'), { rounds: 2, seconds: 1, quick: true });
  t.match(optionsOf('--quick', '--rounds', '7'), { rounds: 7, seconds: 1 });
  t.match(optionsOf('--repeat', '3'), { rounds: 4, repeat: 3 });
  t.end();
});

t.test('names, before and behind options', (t) => {
  t.same(optionsOf('net', '--quick', 'queue-walk').names, ['net', 'queue-walk']);
  t.same(optionsOf('--json', 'x', 'net,blk').names, ['net', 'blk']);
  t.same(optionsOf('all').names, []);
  t.throws(() => parse('nett'), { code: 'E_OPTION', message: /no benchmark nett; there are net/ });
  t.end();
});

t.test('options', (t) => {
  const args = ['--subjects', 'a, b', '--subjects', 'c', '--variants', '--no-lab', '--profile'];
  t.match(optionsOf(...args, '--html', 'p.html', '--markdown', '--folder', '/x'), {
    subjects: ['a', 'b', 'c'],
    variants: true,
    lab: false,
    profile: true,
    html: 'p.html',
    markdown: true,
    folder: '/x',
    json: undefined,
  });
  t.same(optionsOf('--measures', 'source 64, TCP').measures, ['source 64', 'TCP']);
  t.same(optionsOf().measures, []);
  t.match(optionsOf('--stream', '--measured', 'a, b', '--measured', 'c'), {
    stream: true,
    measured: ['a, b', 'c'],
  });
  for (const wrong of [['--rounds', '0'], ['--seconds', '1.5'], ['--rounds'], ['--nope']]) {
    t.throws(() => parse(...wrong), { code: 'E_OPTION' }, wrong.join(' '));
  }
  t.end();
});

t.test('compare', (t) => {
  t.same(parse('compare', 'a', 'b'), { kind: 'compare', before: 'a', after: 'b' });
  t.throws(() => parse('compare', 'a'), { code: 'E_OPTION' });
  t.end();
});

t.test('rows: by name, else by part of a name; variants when asked for', (t) => {
  const rows = [
    { name: 'nodevmm', reference: false },
    { name: 'nodevmm packed', reference: false, variant: true },
    { name: 'nodevmm vhost', reference: false, lacking: () => 'no /dev/vhost-net' },
    { name: 'QEMU q35', reference: true },
  ];
  const omitted: string[] = [];
  const names = (subjects: readonly string[], variants = false): string[] =>
    select(rows, { subjects, variants }, (name, why) => omitted.push(`${name}: ${why}`)).map(
      ({ name }) => name,
    );
  t.same(names([]), ['nodevmm', 'QEMU q35']);
  t.same(omitted, ['nodevmm vhost: no /dev/vhost-net']);
  t.same(names([], true), ['nodevmm', 'nodevmm packed', 'QEMU q35']);
  t.same(names(['NODEVMM']), ['nodevmm'], 'a whole name is that row alone');
  t.same(names(['nodevm']), ['nodevmm', 'nodevmm packed'], 'a part is all that hold it');
  t.same(names(['packed', 'qemu']), ['nodevmm packed', 'QEMU q35']);
  t.end();
});

t.test('summary, and another checkout', (t) => {
  t.same(parse('summary', 'a', 'b'), { kind: 'summary', reports: ['a', 'b'], write: false });
  t.match(parse('summary', '--write'), { reports: [], write: true });
  const options = optionsOf('net', '--against', '../x', '--quick', '--measures', 'TCP 4');
  t.match(options, {
    against: '../x',
    command: "nodevmm bench net --against ../x --quick --measures 'TCP 4'",
  });
  t.same(argumentsOf(options), [
    ...['--rounds', '2', '--seconds', '1', '--quick', '--measures', 'TCP 4'],
  ]);
  t.end();
});
