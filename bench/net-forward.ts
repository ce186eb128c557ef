/**
 * TCP through two network devices back to back, without a guest: iperf3 in one network namespace,
 * tap, device, a driver that forwards each packet without copying it, device, tap, iperf3 in
 * another namespace. Beside it a forwarder in C that reads from one tap and writes to the other
 * (bench/peers/net-forward.c, compiled with cc when there is one). Wants root, iproute2, iperf3.
 *
 * Usage: node dist/bench/net-forward.js [SECONDS [SAMPLES]]
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1 } from '../src/abi/virtio-ring.ts';
import { Ram } from '../src/memory/ram.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import { createNetDevice, type NetDevice } from '../src/virtio/device/net/net.ts';
import { featureSet } from '../src/virtio/features.ts';
import { ForwardedDevice, Forwarder } from './net-forward-driver.ts';

const NAMESPACES = ['nodevmm-bench-a', 'nodevmm-bench-b'] as const;
const ADDRESSES = ['10.199.9.1', '10.199.9.2'] as const;
const SERVE_SLICE_MS = 20;

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}

function setUp(taps: readonly string[]): void {
  for (const [i, name] of NAMESPACES.entries()) {
    const tap = taps[i] as string;
    ip('link', 'set', tap, 'netns', name);
    ip('-n', name, 'address', 'add', `${ADDRESSES[i]}/24`, 'dev', tap);
    ip('-n', name, 'link', 'set', tap, 'up');
  }
}

/** Runs iperf3 between the namespaces. Returns Mbit/s as received. */
async function iperf(seconds: number, meanwhile: (running: () => boolean) => Promise<void>) {
  const server = spawn(
    'ip',
    ['netns', 'exec', NAMESPACES[1], 'iperf3', '-s', '-1', '--forceflush'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  await once(server.stdout, 'data');
  const client = spawn(
    'ip',
    ['netns', 'exec', NAMESPACES[0], 'iperf3', '-J', '-c', ADDRESSES[1], '-t', String(seconds)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let output = '';
  client.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const closed = once(client, 'close');
  await meanwhile(() => client.exitCode === null);
  await closed;
  server.kill();
  const report = JSON.parse(output) as { end: { sum_received: { bits_per_second: number } } };
  return report.end.sum_received.bits_per_second / 1e6;
}

async function measureDevices(seconds: number): Promise<number> {
  const devices = NAMESPACES.map((_, i) => createNetDevice({ name: `net${i}` })) as [
    NetDevice,
    NetDevice,
  ];
  using ram = new Ram(64 * MiB);
  setUp(devices.map(({ tapName }) => tapName));
  const features = devices[0].features & ~featureSet(17, 18, 19, 20, 23, 2);
  const all = features | featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX);
  const forwarder = new Forwarder(
    devices.map((device, i) => new ForwardedDevice(device, ram.memory, i * 16 * MiB, all)),
  );
  try {
    return await iperf(seconds, async (running) => {
      while (running()) {
        forwarder.serve(SERVE_SLICE_MS);
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
  } finally {
    forwarder.close();
    for (const device of devices) device.close();
  }
}

async function measureC(seconds: number, program: string): Promise<number> {
  const forwarder: ChildProcess = spawn(program, ['nvmbencha', 'nvmbenchb'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(forwarder.stdout as NodeJS.ReadableStream, 'data');
  setUp(['nvmbencha', 'nvmbenchb']);
  try {
    return await iperf(seconds, async () => {});
  } finally {
    forwarder.kill();
    await once(forwarder, 'close');
  }
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] as number;
}

const seconds = Number(process.argv[2] ?? 3);
const samples = Number(process.argv[3] ?? 3);
const folder = mkdtempSync(join(tmpdir(), 'nodevmm-bench-'));
const source = fileURLToPath(new URL('../../bench/peers/net-forward.c', import.meta.url));
const program = join(folder, 'net-forward');
const compiled = spawnSync('cc', ['-O2', '-o', program, source]).status === 0;
for (const name of NAMESPACES) ip('netns', 'add', name);
try {
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let i = 0; i < samples; i++) {
    ours.push(await measureDevices(seconds));
    if (compiled) theirs.push(await measureC(seconds, program));
  }
  console.log(`nodevmm, two devices: ${median(ours).toFixed(0)} Mbit/s`);
  if (compiled) {
    const ratio = median(ours) / median(theirs);
    console.log(`C, tap to tap:        ${median(theirs).toFixed(0)} Mbit/s`);
    console.log(`ratio                 ${ratio.toFixed(2)}`);
  }
} finally {
  for (const name of NAMESPACES) ip('netns', 'delete', name);
  rmSync(folder, { recursive: true });
}
