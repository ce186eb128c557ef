/** `nodevmm bench datapaths` in its lab with an IOMMU: a row of each datapath that only this one offers. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { Report } from '../../../bench/harness/report.ts';
import { testFolder } from '../../support/rigs/files.ts';

// Nine guests, on an emulated and perhaps busy host; a hang is the runner's to see.
t.setTimeout(1_800_000);

const NETS = ['nodevmm vfio e1000e', 'nodevmm vp_vdpa', 'nodevmm userland driver'];
const ROWS = ['nodevmm vdpa', 'nodevmm vfio', 'nodevmm poll', ...NETS];
const [PING, READS] = ['ping round trip', '4 KiB random reads, depth 1, NVMe, O_DIRECT'];

t.test('rows, their costs, and the picture', async (t) => {
  const folder = testFolder(t);
  const [json, html] = [path.join(folder, 'report.json'), path.join(folder, 'page.html')];
  const argv = [
    ...['dist/src/cli/main.js', 'bench', 'datapaths', '--quick', '--rounds', '1'],
    ...['--subjects', ROWS.join(','), '--measures', 'ping,depth 1 NVMe'],
    ...['--json', json, '--html', html],
  ];
  const said = await new Promise<string>((resolve, reject) => {
    execFile(process.execPath, argv, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(new Error(`${stderr}${stdout}`));
    });
  });
  const { sites } = JSON.parse(readFileSync(json, 'utf8')) as Report;
  const results = sites.flatMap((site) => site.results);
  t.ok(results.every(({ group }) => group === 'datapaths'));
  const measured = new Map(
    results.map(({ measure, rows }) => [
      measure.name,
      rows.filter(({ samples }) => samples.length > 0).map(({ subject }) => subject),
    ]),
  );
  t.same([...(measured.get(PING) ?? [])].sort(), [...ROWS].sort());
  t.same([...(measured.get(READS) ?? [])].sort(), ROWS.filter((row) => !NETS.includes(row)).sort());
  for (const label of ['host CPU', 'exits', 'exits to VMM']) {
    t.equal(measured.get(`${PING}: ${label}`)?.length, ROWS.length, label);
    t.equal(measured.get(`${READS}: ${label}`)?.length, ROWS.length - NETS.length, label);
  }
  t.match(said, PING);
  t.match(readFileSync(html, 'utf8'), /<td>nodevmm vfio<\/td>/);
});
