/** A disk (virtio 1.3 §5.2) as a user would define it: the built-in one is compared with it. */
import { fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { defineDevice } from '../../src/machine/user-devices/device-module.ts';

const SECTOR = 512;
const HEADER = 16;
const VIRTIO_BLK_T_IN = 0;
const VIRTIO_BLK_T_OUT = 1;
const VIRTIO_BLK_S_OK = 0;
const VIRTIO_BLK_S_IOERR = 1;
const VIRTIO_BLK_S_UNSUPP = 2;

export const disk = defineDevice(({ path = '' }) => {
  const fd = openSync(path, 'r+');
  const { size } = fstatSync(fd);
  return {
    deviceId: 2,
    config: { capacity: { bytes: 8, initial: Math.floor(size / SECTOR) } },
    queues: {
      requestq: {
        handle(request) {
          const type = request.readUint(0, 4);
          let offset = request.readUint(8, 8) * SECTOR;
          const room = request.writableLength - 1;
          let status = VIRTIO_BLK_S_OK;
          if (type === VIRTIO_BLK_T_IN && offset + room <= size) {
            for (const part of request.writeParts(room)) {
              offset += readSync(fd, part, 0, part.length, offset);
            }
          } else if (
            type === VIRTIO_BLK_T_OUT &&
            offset + request.readableLength - HEADER <= size
          ) {
            for (const part of request.readParts(HEADER)) {
              offset += writeSync(fd, part, 0, part.length, offset);
            }
          } else {
            status = type > VIRTIO_BLK_T_OUT ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
          }
          request.writeUint(status, 1, room);
        },
      },
    },
  };
});
