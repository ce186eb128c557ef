/** A backend with an entropy device in this process, for frontends without a guest. */
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ringFeatures } from '../../../src/machine/devices/virtio-plan.ts';
import { ListeningBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import { testFolder } from './files.ts';
import type { RigRing } from './frontend.ts';

const folder = testFolder(t);
/** Where it listens. */
export const path: string = join(folder, 'socket');

/** @param work gets what the backend reports */
export async function withBackend(work: (log: string[]) => Promise<void>): Promise<void> {
  const log: string[] = [];
  const device = createRngDevice({ name: 'rng0' });
  const features = ringFeatures({ packed: true, ringReset: false });
  await using exported = new BackendDevice(device, features, [64], (text) => log.push(text));
  await using _backend = new ListeningBackend(path, exported);
  await work(log);
}

/** A buffer of random bytes through the ring. */
export async function fill({ queue, kick, call }: RigRing, length = 64): Promise<Uint8Array> {
  queue.add({ writable: [length] });
  if (queue.kick()) kick.signal();
  let done = queue.completed();
  while (done.length === 0) {
    await turn();
    done = queue.completed();
  }
  call.drain();
  return done[0]?.data ?? new Uint8Array();
}

export const isRandom = (t: Test, bytes: Uint8Array): void => {
  t.equal(bytes.length, 64);
  t.ok(new Set(bytes).size > 10, 'the bytes are random');
};
