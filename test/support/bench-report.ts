/** A small report, as a run of the network's group in the lab makes it. */
import type { Host } from '../../bench/harness/host.ts';
import type { Measure, Result, Row } from '../../bench/harness/measure.ts';
import { type Report, reportOf } from '../../bench/harness/report.ts';

/** A host that is emulated, or not. */
export const aHost = (emulated: boolean): Host => ({
  cpu: 'Some <CPU> & more',
  cpus: 2,
  emulated,
  memoryMiB: 8192,
  kernel: '6.12.1',
  node: 'v20.1.0',
  qemu: '7.2.22',
  load: 0.5,
});

export const RATE: Measure = { name: 'TCP guest to host', unit: 'Mbit/s', better: 'higher' };
export const CPU: Measure = {
  name: 'TCP guest to host: host CPU',
  unit: 's/GB',
  better: 'lower',
  aspect: { of: RATE.name, label: 'host CPU' },
};
export const KICKS: Measure = {
  name: 'TCP guest to host: kicks',
  unit: '/packet',
  better: 'lower',
  aspect: { of: RATE.name, label: 'kicks', detail: true },
};

/** A row; QEMU's are references. */
export const row = (subject: string, samples: readonly number[], more: Partial<Row> = {}): Row => ({
  subject,
  reference: subject.startsWith('QEMU'),
  samples,
  ...more,
});

export const RESULTS: readonly Result[] = [
  {
    group: 'net',
    measure: RATE,
    rows: [
      row('nodevmm', [900, 1000, 1100, 950], { peer: 'QEMU q35' }),
      row('nodevmm <script>', [], { failure: 'it broke' }),
      row('QEMU q35', [500, 400, 450, 420]),
      row('QEMU q35 vhost', [2000, 2100, 1900, 2050]),
    ],
  },
  {
    group: 'net',
    measure: CPU,
    rows: [row('nodevmm', [12, 11, 13, 12]), row('QEMU q35', [20, 21, 22, 20])],
  },
  { group: 'net', measure: KICKS, rows: [row('nodevmm', [0.125]), row('QEMU q35', [0.5])] },
];

/** A report of some results. */
export function aReport(emulated: boolean, results: readonly Result[] = RESULTS): Report {
  const omission = { group: 'net', what: 'nodevmm vhost', why: '/dev/vhost-net: ENOENT' };
  const site = { host: aHost(emulated), results, omissions: [omission] };
  const options = { rounds: 4, seconds: 2 };
  return reportOf('0.1.0', options, [emulated ? { ...site, labHost: aHost(false) } : site]);
}
