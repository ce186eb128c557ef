/** The datapath in this process that a device asks for. */
import { InternalError } from '../host/errors.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { Datapath, DatapathEvents } from './datapath.ts';
import { InProcessDatapath } from './in-process.ts';
import { QueueWorkerDatapath } from './queue-worker.ts';

/** On the main thread or in a queue worker. */
export function createDatapath(device: VirtioDevice, events: DatapathEvents): Datapath {
  const { thread } = device;
  if (thread.kind === 'worker') {
    return new QueueWorkerDatapath({ name: device.name, ...thread }, events);
  }
  return new InProcessDatapath(() => {
    const handler = device.createHandler?.();
    if (handler === undefined) throw new InternalError(`${device.name} has no data half`);
    return handler;
  }, events);
}
