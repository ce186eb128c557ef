// One end of a network cable: a virtio network device whose frames go to the other end by UDP on this host's loopback.
// Needs no tap and no privilege. Options: the UDP ports of both ends, and the last byte of the MAC address.
import { createSocket } from 'node:dgram';
import { defineDevice } from 'nodevmm/device';

// struct virtio_net_hdr (virtio 1.3 §5.1.6): no offloads, in one buffer.
const HEADER = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0);

export default defineDevice(({ from, to, mac = '1' }) => {
  const buffers = [];
  let socket;
  const receive = (frame, { port }) => {
    // Without a buffer it is lost, as on a real cable.
    if (port !== Number(to) || buffers.length === 0) return;
    const { request, answer } = buffers.shift();
    request.write(HEADER);
    request.write(frame.subarray(0, request.writableLength - HEADER.length));
    answer();
  };
  return {
    deviceId: 1,
    features: { MAC: 5 },
    // 52:54:00:00:00:xx
    config: { mac0: { bytes: 2, initial: 0x5452 }, mac2: { bytes: 4, initial: mac * 2 ** 24 } },
    queues: {
      receiveq: {
        handle: (request) => new Promise((answer) => buffers.push({ request, answer })),
      },
      transmitq: {
        handle: (request) => void socket.send(request.read(HEADER.length), Number(to), '127.0.0.1'),
      },
    },
    start() {
      socket = createSocket('udp4', receive).bind(Number(from), '127.0.0.1');
    },
    stop() {
      buffers.length = 0;
      socket?.close();
      socket = undefined;
    },
  };
});
