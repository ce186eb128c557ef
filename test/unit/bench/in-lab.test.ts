/** A lab that dies under a measurement: what it told is kept, and only what is missing is taken again. */
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import t from 'tap';
import type { Result } from '../../../bench/harness/measure.ts';
import {
  type BenchLab,
  encodeEvent,
  type LabRun,
  measureInLab,
  type StreamEvent,
} from '../../../bench/in-lab.ts';
import { type BenchOptions, benchCommand } from '../../../bench/options.ts';
import type { CommandExit, GuestProcess } from '../../../src/agent/command.ts';
import { PeerError, UsageError } from '../../../src/host/errors.ts';
import { aHost, RATE, row } from '../../support/fixtures/bench-report.ts';

const GROUPS = [{ name: 'net', summary: '' }];

async function optionsOf(...args: string[]): Promise<BenchOptions> {
  return await new Promise((resolve, reject) => {
    const command = benchCommand(args, GROUPS, async (options) => resolve(options));
    command.parseAsync(args, { from: 'user' }).catch(reject);
  });
}

const result = (name: string): Result => ({
  group: 'net',
  measure: { ...RATE, name },
  rows: [row('nodevmm', [1, 2])],
});

/** What one lab does: it tells this, and then its command ends, or it dies. */
interface Script {
  readonly events: readonly StreamEvent[];
  readonly torn?: string;
  /** Bytes that arrive at a time. Default all. */
  readonly pieces?: number;
  /** Or it says no more, and does not end. */
  readonly end: CommandExit | Error | 'silent';
  readonly stderr?: string;
}

/** Far more than these labs take to tell all. */
const PATIENCE_MS = 2000;

/** Labs that follow scripts, one after the other. */
class Labs {
  readonly commands: (readonly string[])[] = [];
  readonly told: string[] = [];
  closed = 0;
  readonly #scripts: Script[];

  constructor(...scripts: Script[]) {
    this.#scripts = scripts;
  }

  async run(...args: string[]): Promise<LabRun> {
    return {
      boot: async () => this.#lab(),
      progress: (text) => void this.told.push(text),
      options: await optionsOf(...args),
      labHost: aHost(false),
      patienceMs: PATIENCE_MS,
    };
  }

  #lab(): BenchLab {
    const script = this.#scripts.shift();
    if (script === undefined) throw new Error('one lab too many');
    return {
      start: (args) => {
        this.commands.push(args);
        const [stdout, stderr] = [new PassThrough(), new PassThrough()];
        void this.#write(stdout, script);
        stderr.end(script.stderr ?? '');
        const exit = new Promise<CommandExit>((resolve, reject) => {
          stdout.once('end', () => {
            if (script.end instanceof Error) reject(script.end);
            else if (script.end !== 'silent') resolve(script.end);
          });
        });
        return { stdout, stderr, exit } as unknown as GuestProcess;
      },
      [Symbol.asyncDispose]: async () => {
        this.closed += 1;
      },
    };
  }

  async #write(stdout: PassThrough, { events, torn = '', end, pieces }: Script): Promise<void> {
    const bytes = Buffer.from(events.map(encodeEvent).join('') + torn);
    const size = pieces ?? bytes.length;
    for (let at = 0; at < bytes.length; at += size) {
      stdout.write(bytes.subarray(at, at + size));
      await setImmediate();
    }
    if (end !== 'silent') stdout.end();
  }
}

const host = { kind: 'host', host: aHost(true) } as const;
const results = (...names: string[]): StreamEvent => ({
  kind: 'results',
  results: names.map(result),
});
const omission = { group: 'net', what: 'nodevmm vhost', why: 'no /dev/vhost-net' };
const GONE = new PeerError(
  'E_LAB_GONE',
  'the lab died: qemu ended, with this on its console:\nOops',
);
const namesOf = (site: { readonly results: readonly Result[] }): string[] =>
  site.results.map(({ measure }) => measure.name);

t.test('a lab that lives', async (t) => {
  const labs = new Labs({
    events: [host, { kind: 'progress', text: 'half', fraction: 0.5 }, results('a', 'b')],
    end: { exitCode: 0 },
  });
  const site = await measureInLab(
    'net',
    await labs.run('--quick', '--variants', '--subjects', 'x'),
  );
  t.same(namesOf(site), ['a', 'b']);
  t.same(site.omissions, []);
  t.equal(site.host.emulated, true);
  t.equal(site.labHost?.emulated, false);
  t.ok(labs.told.includes('half'));
  t.equal(labs.closed, 1);
  t.same(labs.commands[0], [
    ...['--no-lab', '--stream', '--folder', '/mnt/bench', '--rounds', '2', '--seconds', '1'],
    ...['--quick', '--variants', '--subjects', 'x', 'net'],
  ]);
});

t.test('one that stops without a word: as if it had died', async (t) => {
  const labs = new Labs(
    { events: [host, results('a')], end: 'silent' },
    { events: [host, results('b')], end: { exitCode: 0 } },
  );
  const site = await measureInLab('net', await labs.run());
  t.same(namesOf(site), ['a', 'b']);
  t.same(labs.commands[1]?.slice(-3), ['--measured', 'a', 'net']);
  t.ok(
    labs.told.includes(
      'net: again in another lab, for what is missing: the lab said nothing for 2 s',
    ),
  );
  t.equal(labs.closed, 2);
});

t.test('one that dies: the next one takes what is missing', async (t) => {
  const omitted = { kind: 'omission', omission } as const;
  const labs = new Labs(
    { events: [host, omitted, results('a')], torn: '{"kind":"resul', end: GONE },
    { events: [host, omitted, results('b')], end: { exitCode: 0 } },
  );
  const site = await measureInLab('net', await labs.run());
  t.same(namesOf(site), ['a', 'b']);
  t.same(site.omissions, [omission], 'told once');
  t.same(labs.commands[1]?.slice(-3), ['--measured', 'a', 'net']);
  t.equal(labs.closed, 2);
  t.ok(labs.told.some((text) => /again in another lab.*qemu ended/.test(text)));
});

t.test('its agent may be what is gone', async (t) => {
  const labs = new Labs(
    { events: [], end: new PeerError('E_AGENT_GONE', 'the agent is gone') },
    { events: [host, results('a')], end: { exitCode: 0 } },
  );
  t.same(namesOf(await measureInLab('net', await labs.run())), ['a']);
});

t.test('three that die: what was measured is kept, the loss is told', async (t) => {
  const labs = new Labs(
    { events: [host, results('a')], end: GONE },
    { events: [host], end: GONE },
    { events: [host, results('b')], end: GONE },
  );
  const site = await measureInLab('net', await labs.run());
  t.same(namesOf(site), ['a', 'b']);
  t.match(site.omissions, [{ group: 'net', what: 'all that is not shown', lost: true }]);
  t.equal(labs.closed, 3);
});

t.test('a program that fails is not tried again', async (t) => {
  const labs = new Labs({ events: [], end: { exitCode: 2 }, stderr: 'nodevmm: no tap\n' });
  const site = await measureInLab('net', await labs.run());
  t.match(site.omissions, [{ what: 'everything', why: /status 2: nodevmm: no tap/, lost: true }]);
});

t.test('a host that cannot have a lab says so', async (t) => {
  const run = await new Labs().run();
  const boot = async (): Promise<BenchLab> => {
    throw new UsageError('E_LAB', 'needs root');
  };
  await t.rejects(measureInLab('net', { ...run, boot }), { code: 'E_LAB' });
});

t.test('events survive being cut anywhere', async (t) => {
  for (const pieces of [1, 2, 7, 39]) {
    const events = [host, results('ä', 'b'), { kind: 'omission', omission } as const];
    const labs = new Labs({ events, pieces, end: { exitCode: 0 } });
    const site = await measureInLab('net', await labs.run());
    t.same(namesOf(site), ['ä', 'b'], `pieces of ${pieces}`);
    t.same(site.omissions, [omission]);
  }
});
