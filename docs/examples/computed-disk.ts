// A disk out of nothing: each sector says where it is until it is written. Linux's own driver, virtio_blk, drives it.
//   sudo nodevmm device mount computed-disk.ts,mib=64
import { defineDevice } from 'nodevmm/device';

// virtio 1.3 §5.2.6: a request is a header, data, and a status byte.
const HEADER = 16;
const SECTOR = 512;
const VIRTIO_BLK_T_IN = 0;
const VIRTIO_BLK_T_OUT = 1;
const VIRTIO_BLK_S_OK = 0;
const VIRTIO_BLK_S_IOERR = 1;
const VIRTIO_BLK_S_UNSUPP = 2;

export default defineDevice(({ mib = '64' }) => {
  const capacity = Number(mib) * 2048;
  const written = new Map<number, Uint8Array>();
  return {
    deviceId: 2,
    // VIRTIO_BLK_F_SEG_MAX; without it, a request has one piece of memory.
    features: { SEG_MAX: 2 },
    config: {
      capacity: { bytes: 8, initial: capacity },
      size_max: { bytes: 4 },
      seg_max: { bytes: 4, initial: 126 },
    },
    queues: {
      requestq: {
        handle(request) {
          const type = request.readUint(0, 4);
          const first = request.readUint(8, 8);
          const statusAt = request.writableLength - 1;
          const isRead = type === VIRTIO_BLK_T_IN;
          const bytes = isRead ? statusAt : request.readableLength - HEADER;
          const count = bytes / SECTOR;
          let status = VIRTIO_BLK_S_OK;
          if (type > VIRTIO_BLK_T_OUT) status = VIRTIO_BLK_S_UNSUPP;
          else if (!Number.isInteger(count) || first + count > capacity)
            status = VIRTIO_BLK_S_IOERR;
          else {
            for (let i = 0; i < count; i++) {
              const sector = first + i;
              if (isRead) {
                request.write(written.get(sector) ?? Buffer.alloc(SECTOR, `sector ${sector}\n`));
              } else {
                written.set(sector, request.read(HEADER + i * SECTOR, SECTOR));
              }
            }
          }
          request.writeUint(status, 1, statusAt);
        },
      },
    },
  };
});
