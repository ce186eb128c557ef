/** The entropy device (virtio 1.3 §5.4) as a user would define it: the built-in one is compared with it. */
import { randomFillSync } from 'node:crypto';
import { defineDevice } from '../../src/machine/user-devices/device-module.ts';

const MAX_BYTES = 64 * 1024;

export const entropy = defineDevice({
  deviceId: 4,
  queues: {
    requestq: {
      size: 64,
      handle(request) {
        request.write(randomFillSync(new Uint8Array(Math.min(request.writableLength, MAX_BYTES))));
      },
    },
  },
});
