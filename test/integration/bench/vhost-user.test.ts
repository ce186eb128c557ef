/** `nodevmm bench vhost-user`: what is measured, what DPDK prints, and one short run of it. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { serveMemoryCommand, vhostUserSetups } from '../../../bench/groups/vhost-user.ts';
import type { Report } from '../../../bench/harness/report.ts';
import { isNamed } from '../../../bench/options.ts';
import { lacksTestpmd, parsePortRates, testpmdCommand } from '../../../bench/subjects/testpmd.ts';
import { testFolder } from '../../support/rigs/files.ts';

const ANSWER = `
  ######################## NIC statistics for port 0  ########################
  RX-packets: 9000       RX-missed: 0          RX-bytes:  540000
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 7          TX-errors: 0          TX-bytes:  0

  Throughput (since last show)
  Rx-pps:      9123456          Rx-bps:   4671209472
  Tx-pps:           12          Tx-bps:            0
  ############################################################################
testpmd> `;

t.test('what a port counts', (t) => {
  t.same(parsePortRates(ANSWER), { received: 9_123_456, transmitted: 12 });
  const whole = ANSWER.lastIndexOf('  ####') + 30;
  t.same(parsePortRates(ANSWER.slice(0, whole)), { received: 9_123_456, transmitted: 12 });
  for (let end = 0; end < whole - 10; end++) {
    if (parsePortRates(ANSWER.slice(0, end)) !== undefined) t.fail(`read too early, at ${end}`);
  }
  t.end();
});

t.test('what is measured is what its name says', (t) => {
  const setups = vhostUserSetups();
  t.equal(new Set(setups.map(({ measure }) => measure.name)).size, 12);
  for (const one of setups) {
    const { measure, network, frame, packed } = one;
    t.equal(measure.name, `${network.name}, ${frame} bytes, ${packed ? 'packed' : 'split'}`);
    const device = `backend=${network.name},frame=${frame},packed=${packed ? 'on' : 'off'},poll=always`;
    t.match(serveMemoryCommand(one, '/s').join(' '), `serve net ${device} --socket /s`);
  }
  const options = { prefix: 'x', vdev: 'v', mode: 'io', frame: 1500 } as const;
  const line = testpmdCommand({ ...options, cpu: 1, mainCpu: 0 }).join(' ');
  t.match(line, '--lcores=0@0,1@1');
  t.match(line, '--vdev=v -- -i --auto-start --forward-mode=io --txpkts=1500');
  t.end();
});

t.test('measures are selected by words', (t) => {
  const names = (...texts: string[]): string[] =>
    vhostUserSetups()
      .map(({ measure }) => measure.name)
      .filter((name) => isNamed(name, texts));
  t.equal(names().length, 12);
  t.same(names('64 sink'), ['sink, 64 bytes, split', 'sink, 64 bytes, packed']);
  t.same(names('Source 1500 split', 'echo 1500 split'), [
    'source, 1500 bytes, split',
    'echo, 1500 bytes, split',
  ]);
  t.same(names('sour'), [], 'a part of a word is none');
  t.end();
});

const skip = lacksTestpmd() ?? (availableParallelism() < 2 ? 'one CPU' : false);
t.test('a run', { skip }, async (t) => {
  const folder = testFolder(t);
  const json = path.join(folder, 'report.json');
  const args = ['vhost-user', '--rounds', '1', '--seconds', '1', '--measures', 'source 64 packed'];
  const argv = ['dist/src/cli/main.js', 'bench', ...args, '--json', json];
  const [status, stderr] = await new Promise<[unknown, string]>((resolve) => {
    execFile(process.execPath, argv, (error, _stdout, stderr) => {
      resolve([error?.code ?? 0, stderr]);
    });
  });
  t.equal(status, 0, stderr);
  const { sites } = JSON.parse(readFileSync(json, 'utf8')) as Report;
  const [packets, more] = sites.flatMap(({ results }) => results);
  t.equal(more, undefined, 'nothing else');
  t.same(
    packets?.rows.map(({ subject }) => subject),
    ['nodevmm', 'DPDK'],
  );
  t.ok(packets?.rows.every(({ samples }) => (samples[0] ?? 0) > 0));
});
