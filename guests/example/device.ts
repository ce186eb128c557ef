/**
 * virtio-example: answers each text in capitals, or with its letters rotated by 13. Its Linux
 * driver is driver/virtio_example.c.
 */
import { defineDevice } from 'nodevmm/device';

const MODE_ROT13 = 1;

const capitals = (text: string): string => text.replace(/[a-z]+/g, (part) => part.toUpperCase());

const rot13 = (text: string): string =>
  text.replace(/[a-z]/gi, (letter) => {
    const first = letter < 'a' ? 65 : 97;
    return String.fromCharCode(first + ((letter.charCodeAt(0) - first + 13) % 26));
  });

export default defineDevice({
  // Those that the virtio specification leaves out are free for experiments.
  deviceId: 42,
  // The driver may write the field `mode`.
  features: { MODE: 0 },
  config: {
    max_length: { bytes: 4, initial: 4096 },
    served: { bytes: 4 },
    mode: { bytes: 4, writable: true },
  },
  queues: {
    requestq: {
      size: 16,
      handle(request, device) {
        const text = Buffer.from(request.read()).toString('latin1');
        const rotate = device.has('MODE') && device.getConfig('mode') === MODE_ROT13;
        const answer = rotate ? rot13(text) : capitals(text);
        request.write(Buffer.from(answer, 'latin1').subarray(0, request.writableLength));
        // The driver hears of it by a configuration change notification.
        device.setConfig('served', device.getConfig('served') + 1);
      },
    },
  },
});
