/** vhost structs and ioctls, against the kernel header. */
import t from 'tap';
import * as abi from '../../../src/abi/vhost.ts';
import { compilerMissing, expectedLines, printStruct, runC, type StructCase } from './c-program.ts';

const headers = ['linux/vhost.h'];

const cases: StructCase[] = [
  ['vhost_vring_state', abi.vhost_vring_state],
  ['vhost_vring_file', abi.vhost_vring_file],
  ['vhost_vring_addr', abi.vhost_vring_addr],
  ['vhost_memory', abi.vhost_memory],
  ['vhost_memory_region', abi.vhost_memory_region],
].map(([name, layout]) => ({
  name: name as string,
  layout: layout as { size: number },
  type: `struct ${name}`,
  path: (field) => field,
}));

const constants = Object.entries(abi).filter(([, value]) => typeof value === 'number');

t.test(
  "offsets, sizes and values are the C compiler's",
  {
    skip: compilerMissing(headers),
  },
  async (t) => {
    const prints = constants.map(([name]) => `printf("${name} %lld\\n", (long long)${name});`);
    const printed = runC(headers, [...cases.map(printStruct), ...prints].join('\n'));
    t.ok(constants.length > 12);
    t.same(printed, [
      ...cases.flatMap(expectedLines),
      ...constants.map(([name, value]) => `${name} ${value as number}`),
    ]);
  },
);
