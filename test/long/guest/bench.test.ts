/** `nodevmm bench` from end to end: one small run of nodevmm beside QEMU, and all forms of its report. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { Report } from '../../../bench/harness/report.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const json = path.join(folder, 'report.json');
const html = path.join(folder, 'page.html');

interface Result {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const bench = (...args: string[]): Promise<Result> =>
  new Promise((resolve) => {
    const argv = ['dist/src/cli/main.js', 'bench', ...args];
    execFile(process.execPath, argv, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code ?? -1), stdout, stderr });
    });
  });

/** One with most to it: two processes. */
const ROWS = ['QEMU q35', 'nodevmm vhost-user'];

t.test('a run of the network’s group', async (t) => {
  const { status, stdout, stderr } = await bench(
    ...['net', '--quick', '--rounds', '1', '--seconds', '1', '--subjects', ROWS.join(',')],
    ...['--json', json, '--html', html],
  );
  t.equal(status, 0, stderr);
  const { sites } = JSON.parse(readFileSync(json, 'utf8')) as Report;
  const results = sites.flatMap((site) => site.results);
  const headlines = results.filter(({ measure }) => measure.aspect === undefined);
  t.equal(headlines.length, 5);
  for (const { measure, rows } of headlines) {
    t.same(
      rows.map(({ subject }) => subject),
      ROWS,
      measure.name,
    );
    t.ok(
      rows.every(({ samples }) => (samples[0] ?? 0) > 0),
      `${measure.name} is measured`,
    );
    t.match(stdout, measure.name);
  }
  // Counted by the host and by KVM.
  for (const label of ['host CPU', 'exits to VMM']) {
    const costs = results.filter(({ measure }) => measure.aspect?.label === label);
    t.equal(costs.length, headlines.length, label);
    t.ok(
      costs.every(({ rows }) => rows.every(({ samples }) => samples.length === 1)),
      label,
    );
  }
  const page = readFileSync(html, 'utf8');
  // The star marks the peer.
  for (const cell of ['QEMU q35 *', 'nodevmm vhost-user']) t.ok(page.includes(`>${cell}<`), cell);
});

t.test('datapaths: what this host lacks something for is left out, with the reason', async (t) => {
  const { status, stdout, stderr } = await bench(
    ...['datapaths', '--quick', '--rounds', '1', '--subjects', 'nodevmm poll,nodevmm vfio'],
    ...['--measures', 'ping'],
  );
  t.equal(status, 0, stderr);
  t.match(stdout, /datapaths: without nodevmm vfio: no IOMMU/);
  t.match(stdout, /datapaths: ping round trip, us .*\n.*host CPU us\/packet +exits\/packet/);
  t.match(stdout, /nodevmm poll +\S/);
});

t.test('a report compared with itself shows no change', async (t) => {
  const { status, stdout } = await bench('compare', json, json);
  t.equal(status, 0);
  t.match(stdout, /nodevmm vhost-user +\S+ +\S+ +1\.00 /);
  t.notMatch(stdout, /better$|WORSE/m);
});
