import t from 'tap';
import { argumentsOf, type BenchOptions, benchCommand } from '../../../bench/options.ts';
import { select } from '../../../bench/subjects/subject.ts';

const GROUPS = [
  { name: 'net', summary: '' },
  { name: 'blk', summary: '' },
  { name: 'queue-walk', summary: '', named: true },
] as const;

const USER = { from: 'user' } as const;

function optionsOf(...args: string[]): BenchOptions {
  let options: BenchOptions | undefined;
  benchCommand(args, GROUPS, async (parsed) => {
    options = parsed;
  }).parse(args, USER);
  if (options === undefined) throw new Error('nothing to measure');
  return options;
}

t.test('defaults, and what --quick makes of them', (t) => {
  t.match(optionsOf(), {
    names: ['net', 'blk'],
    rounds: 4,
    seconds: 2,
    repeat: 1,
    quick: false,
    lab: true,
  });
  t.match(optionsOf('--quick'), { rounds: 2, seconds: 1, quick: true });
  t.match(optionsOf('--quick', '--rounds', '7'), { rounds: 7, seconds: 1 });
  t.match(optionsOf('--repeat', '3'), { rounds: 4, repeat: 3 });
  t.end();
});

t.test('names, before and behind options', async (t) => {
  t.same(optionsOf('net', '--quick', 'queue-walk').names, ['net', 'queue-walk']);
  t.same(optionsOf('--json', 'x', 'net,blk').names, ['net', 'blk']);
  t.same(optionsOf('all').names, ['net', 'blk']);
  await t.rejects(benchCommand(['nett'], GROUPS, async () => {}).parseAsync(['nett'], USER), {
    code: 'E_OPTION',
    message: /no benchmark nett; there are net/,
  });
});

t.test('options', (t) => {
  const args = ['--subjects', 'a, b', '--subjects', 'c', '--variants', '--no-lab'];
  t.match(optionsOf(...args, '--html', 'p.html', '--folder', '/x'), {
    subjects: ['a', 'b', 'c'],
    variants: true,
    lab: false,
    html: 'p.html',
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
    t.throws(() => optionsOf(...wrong), { name: 'CommanderError' }, wrong.join(' '));
  }
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

t.test('another checkout, and the lab', (t) => {
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
