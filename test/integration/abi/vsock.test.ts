/** Socket device structs and constants, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/virtio-vsock.ts';
import { compilerMissing, expectedLines, printStruct, runC, type StructCase } from './c-program.ts';

const headers = ['linux/virtio_vsock.h', 'sys/socket.h', 'linux/vm_sockets.h'];
const same = (field: string): string => field;

const cases: StructCase[] = [
  { name: 'hdr', layout: abi.virtio_vsock_hdr, type: 'struct virtio_vsock_hdr', path: same },
  { name: 'event', layout: abi.virtio_vsock_event, type: 'struct virtio_vsock_event', path: same },
  {
    name: 'config',
    layout: abi.virtio_vsock_config,
    type: 'struct virtio_vsock_config',
    path: same,
  },
];

/** They are an enum's, which the preprocessor does not see. */
const constants = Object.entries(abi).filter(([name]) =>
  /_(TYPE|OP|SHUTDOWN|EVENT)_|VMADDR_CID_HOST|F_SEQPACKET|VIRTIO_ID/.test(name),
);

t.test(
  "offsets, sizes and values are the C compiler's",
  {
    skip: compilerMissing(headers),
  },
  async (t) => {
    const prints = constants.map(([name]) => `printf("${name} %d\\n", (int)${name});`);
    const printed = runC(headers, [...cases.map(printStruct), ...prints].join('\n'));
    const expected = constants.map(([name, value]) => `${name} ${value as unknown as number}`);
    t.ok(constants.length > 12);
    t.same(printed, [...cases.flatMap(expectedLines), ...expected]);
  },
);
