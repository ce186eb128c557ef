/** The entropy device (virtio 1.3 §5.4) as a user would define it: the built-in one is compared with it. */
import { randomFillSync } from 'node:crypto';
import { defineDevice } from '../../src/machine/user-devices/device-module.ts';

/** Random bytes from `next` on; drawn all at once, as the built-in device does. */
const random = new Uint8Array(64 * 1024);
let next = random.length;

export const entropy = defineDevice({
  deviceId: 4,
  queues: {
    requestq: {
      size: 64,
      handle(request) {
        const length = Math.min(request.writableLength, random.length);
        if (next + length > random.length) {
          randomFillSync(random);
          next = 0;
        }
        request.write(random.subarray(next, next + length));
        random.fill(0, next, next + length);
        next += length;
      },
    },
  },
});
