// An entropy device that is not very random. Linux's own driver, virtio_rng, drives it.
import { defineDevice } from 'nodevmm/device';

export default defineDevice(({ step = '1' }) => {
  let next = 0;
  return {
    deviceId: 4,
    queues: {
      requestq: {
        handle(request) {
          const bytes = new Uint8Array(Math.min(request.writableLength, 64));
          for (let i = 0; i < bytes.length; i++) bytes[i] = next += Number(step);
          request.write(bytes);
        },
      },
    },
  };
});
