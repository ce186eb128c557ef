/** How samples are taken: in turn, warm, and again where a guest died. */
import t from 'tap';
import { type Contestant, measureInRounds, type Sample } from '../../../bench/harness/rounds.ts';
import { CPU, RATE } from '../../support/fixtures/bench-report.ts';

const A: Contestant = { name: 'a', reference: false, peer: 'b' };
const B: Contestant = { name: 'b', reference: true };

interface Run {
  readonly order: string[];
  readonly told: string[];
  readonly fractions: number[];
}

function rounds(
  take: (name: string, count: number) => Sample,
  revive?: (contestant: Contestant) => Promise<boolean>,
) {
  const run: Run = { order: [], told: [], fractions: [] };
  const taking = {
    group: 'net',
    measures: [RATE, CPU],
    contestants: [A, B],
    take: async ({ name }: Contestant, warmUp: boolean) => {
      run.order.push(`${name}${warmUp ? ' warm' : ''}`);
      return take(name, run.order.length);
    },
    span: [0.5, 1] as const,
    ...(revive === undefined ? {} : { revive }),
  };
  const results = measureInRounds(taking, {
    rounds: 2,
    progress: (text, fraction) => {
      run.told.push(text);
      if (fraction !== undefined) run.fractions.push(fraction);
    },
  });
  return { run, results };
}

t.test('each in turn, the order reversed from round to round, the warm-up discarded', async (t) => {
  const { run, results } = rounds((_name, count) => ({ [RATE.name]: count, [CPU.name]: -count }));
  const [rate, cpu] = await results;
  t.same(run.order, ['a warm', 'b warm', 'b', 'a', 'a', 'b']);
  t.match(rate?.rows, [
    { subject: 'a', reference: false, peer: 'b', samples: [4, 5] },
    { subject: 'b', reference: true, samples: [3, 6] },
  ]);
  t.same(
    cpu?.rows.map(({ samples }) => samples),
    [
      [-4, -5],
      [-3, -6],
    ],
  );
  t.equal(run.fractions[0], 0.5);
  t.ok(run.fractions.every((fraction) => fraction >= 0.5 && fraction < 1));
});

t.test('what is not a number is no sample', async (t) => {
  const { results } = rounds((_name, count) => ({
    [RATE.name]: count,
    [CPU.name]: count === 4 ? Number.NaN : 1,
  }));
  const [rate, cpu] = await results;
  t.same(rate?.rows[0]?.samples, [4, 5]);
  t.same(cpu?.rows[0]?.samples, [1]);
});

t.test('one that fails is left out, the other goes on', async (t) => {
  const { run, results } = rounds((name, count) => {
    if (name === 'a' && count > 3) throw new Error('it broke');
    return { [RATE.name]: count };
  });
  const [rate] = await results;
  t.match(rate?.rows, [{ samples: [], failure: 'it broke' }, { samples: [3, 5] }]);
  t.same(run.order, ['a warm', 'b warm', 'b', 'a', 'b']);
});

t.test('one that can be revived is measured again, which is told', async (t) => {
  const { results } = rounds(
    (_name, count) => {
      if (count === 4) throw new Error('the guest ended');
      return { [RATE.name]: count };
    },
    async ({ name }) => name === 'a',
  );
  const [rate] = await results;
  t.match(rate?.rows[0], { samples: [5, 6], remark: /another guest: the guest ended/ });
  t.notOk('failure' in (rate?.rows[0] ?? {}));
});

t.test('one that cannot, or fails again, has failed', async (t) => {
  const dead = rounds(
    () => {
      throw new Error('the guest ended');
    },
    async () => true,
  );
  t.match((await dead.results)[0]?.rows, [{ failure: 'the guest ended' }, { samples: [] }]);
  const alive = rounds(
    () => {
      throw new Error('iperf3 says no');
    },
    async () => false,
  );
  t.match((await alive.results)[0]?.rows[0], { failure: 'iperf3 says no' });
  t.same(alive.run.order, ['a warm', 'b warm'], 'tried once');
});
