/** What a host may lack for some of the rows. */
import { accessSync, constants } from 'node:fs';
import { findProgram } from '../../src/guest/programs.ts';

/** QEMU. */
export function lacksQemu(): string | undefined {
  const found = findProgram('qemu-system-x86_64');
  return found === undefined ? 'no qemu-system-x86_64; apt-get install qemu-system-x86' : undefined;
}

/** Network queues that the kernel serves. */
export function lacksVhostNet(): string | undefined {
  try {
    accessSync('/dev/vhost-net', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code;
    return `/dev/vhost-net: ${why}; modprobe vhost_net, as root`;
  }
}
