// What a machine counts, for Prometheus. Run: npx nodevmm run --name web & node metrics.mjs web 9100
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { connectMachine } from 'nodevmm';

const label = (text) => text.replace(/[\\"\n]/g, (one) => (one === '\n' ? '\\n' : `\\${one}`));

/** The text format 0.0.4. KVM's own names tell counters from gauges only by their meaning, so they have no type. */
export function prometheusText(machine, { state, exits, kvm, droppedOutput, breaches }) {
  const family = (name, type, help, samples) => [
    `# HELP nodevmm_${name} ${help}`,
    `# TYPE nodevmm_${name} ${type}`,
    ...samples.map(([labels, value]) => {
      const all = Object.entries({ machine, ...labels });
      const text = all.map(([key, one]) => `${key}="${label(one)}"`).join(',');
      return `nodevmm_${name}{${text}} ${value}`;
    }),
  ];
  const by = (key, counts) =>
    Object.entries(counts).map(([name, count]) => [{ [key]: name }, count]);
  return [
    ...family('up', 'gauge', 'Whether the machine runs.', [[{}, state === 'running' ? 1 : 0]]),
    ...family('exits_total', 'counter', 'Exits to user space, by cause.', by('reason', exits)),
    ...family('kvm_stat', 'untyped', "KVM's statistics, by its own names.", by('name', kvm)),
    ...family('dropped_bytes_total', 'counter', 'Output nobody read.', by('stream', droppedOutput)),
    ...family('breaches', 'gauge', 'Rules of virtio that were broken.', [[{}, breaches]]),
    '',
  ].join('\n');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [, , name, port = '9100'] = process.argv;
  const vm = await connectMachine(name);
  createServer(async (_request, response) => {
    const metrics = await vm.metrics();
    response.setHeader('content-type', 'text/plain; version=0.0.4');
    response.end(prometheusText(name, metrics));
  }).listen(Number(port), '127.0.0.1');
}
