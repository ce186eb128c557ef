/** A lab that dies under a measurement: what it told is kept, and only what is missing is taken again. */
import { PassThrough } from 'node:stream';
import t from 'tap';
import type { Result } from '../../../bench/harness/measure.ts';
import { EventReader, encodeEvent, type StreamEvent } from '../../../bench/harness/stream.ts';
import { type BenchLab, type LabRun, measureInLab } from '../../../bench/in-lab.ts';
import { type BenchOptions, parseRequest } from '../../../bench/options.ts';
import type { CommandExit, GuestProcess } from '../../../src/agent/command.ts';
import { PeerError, UsageError } from '../../../src/host/errors.ts';
import { aHost, RATE, row } from '../../support/fixtures/bench-report.ts';

const GROUPS = [{ name: 'net', summary: '' }];

function optionsOf(...args: string[]): BenchOptions {
  const request = parseRequest(args, GROUPS, []);
  if (request.kind !== 'measure') throw new Error(request.kind);
  return request.options;
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

  run(...args: string[]): LabRun {
    return {
      boot: async () => this.#lab(),
      progress: (text) => void this.told.push(text),
      options: optionsOf(...args),
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
        stdout.write(script.events.map(encodeEvent).join('') + (script.torn ?? ''));
        if (script.end !== 'silent') stdout.end();
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
}

const host = { kind: 'host', host: aHost(true) } as const;
const results = (...names: string[]): StreamEvent => ({
  kind: 'results',
  results: names.map(result),
});
const omission = { group: 'net', what: 'nodevmm vhost', why: 'no /dev/vhost-net' };
const GONE = new PeerError('E_LAB_GONE', 'the lab died: qemu ended; its console ends with:\nOops');
const namesOf = (site: { readonly results: readonly Result[] }): string[] =>
  site.results.map(({ measure }) => measure.name);

t.test('a lab that lives', async (t) => {
  const labs = new Labs({
    events: [host, { kind: 'progress', text: 'half', fraction: 0.5 }, results('a', 'b')],
    end: { exitCode: 0 },
  });
  const site = await measureInLab('net', labs.run('--quick', '--variants', '--subjects', 'x'));
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
  const site = await measureInLab('net', labs.run());
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
  const site = await measureInLab('net', labs.run());
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
  t.same(namesOf(await measureInLab('net', labs.run())), ['a']);
});

t.test('three that die: what was measured is kept, the loss is told', async (t) => {
  const labs = new Labs(
    { events: [host, results('a')], end: GONE },
    { events: [host], end: GONE },
    { events: [host, results('b')], end: GONE },
  );
  const site = await measureInLab('net', labs.run());
  t.same(namesOf(site), ['a', 'b']);
  t.match(site.omissions, [{ group: 'net', what: 'all that is not shown', lost: true }]);
  t.equal(labs.closed, 3);
});

t.test('a program that fails is not tried again', async (t) => {
  const labs = new Labs({ events: [], end: { exitCode: 2 }, stderr: 'nodevmm: no tap\n' });
  const site = await measureInLab('net', labs.run());
  t.match(site.omissions, [{ what: 'everything', why: /status 2: nodevmm: no tap/, lost: true }]);
});

t.test('a host that cannot have a lab says so', async (t) => {
  const run = new Labs().run();
  const boot = async (): Promise<BenchLab> => {
    throw new UsageError('E_LAB', 'needs root');
  };
  await t.rejects(measureInLab('net', { ...run, boot }), { code: 'E_LAB' });
});

t.test('events survive being cut anywhere', (t) => {
  const events: StreamEvent[] = [host, results('ä', 'b'), { kind: 'omission', omission }];
  const text = events.map(encodeEvent).join('');
  for (let size = 1; size < 40; size++) {
    const seen: StreamEvent[] = [];
    const reader = new EventReader((event) => seen.push(event));
    for (let at = 0; at < text.length; at += size) reader.push(text.slice(at, at + size));
    t.same(seen, events, `pieces of ${size}`);
  }
  t.end();
});
