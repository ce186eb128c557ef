/** The memory device (virtio 1.3 §5.15). */
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-mem.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { callError } from '../../../../src/host/syscall.ts';
import { MachineGrowth } from '../../../../src/machine/growing-ram.ts';
import { BLOCK_SIZE } from '../../../../src/memory/plugged-blocks.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { MemDevice } from '../../../../src/virtio/device/mem/mem.ts';
import type { DeviceHost } from '../../../../src/virtio/device.ts';

const MiB = 2 ** 20;
const GPA = 6 * 2 ** 30;
const BLOCKS = 160;
const { PLUG, UNPLUG, UNPLUG_ALL, STATE } = {
  PLUG: abi.VIRTIO_MEM_REQ_PLUG,
  UNPLUG: abi.VIRTIO_MEM_REQ_UNPLUG,
  UNPLUG_ALL: abi.VIRTIO_MEM_REQ_UNPLUG_ALL,
  STATE: abi.VIRTIO_MEM_REQ_STATE,
};
const [ACK, NACK, BUSY, ERROR] = [0, 1, 2, 3];

function setUp(...ring: number[]) {
  const ram = new Ram(32 * MiB, 'anonymous', true, { growth: BLOCKS * BLOCK_SIZE });
  const device = new MemDevice('mem0');
  const config = new DataView(device.config.buffer);
  const updates: boolean[] = [];
  const host: DeviceHost = {
    updateConfig: (change, quiet = false) => {
      change(config);
      updates.push(quiet);
    },
    readConfig: () => device.config,
    post: () => {},
  };
  device.attach(host);
  const logs: string[] = [];
  const growth = new MachineGrowth(ram.memory, device, (text) => logs.push(text));
  const slots = new Map<number, number[]>();
  let refuses = false;
  const vm = {
    setMemorySlot: (slot: number, gpa: number, size: number, address: number) => {
      if (refuses) throw callError(-12, 'KVM_SET_USER_MEMORY_REGION', 'a slot');
      if (size === 0) slots.delete(slot);
      else slots.set(slot, [gpa - GPA, size, address - ram.memory.address - 32 * MiB]);
    },
  };
  growth.powerOn(vm, 40);
  const rig = new DeviceRig();
  rig.start(device.createHandler(), featureSet(VIRTIO_F_VERSION_1, ...ring), [64]);
  const send = (readable: Uint8Array, writable = 10): Uint8Array => {
    rig.queue(0).add({ readable: [readable], writable: [writable] });
    rig.kick(0);
    return rig.queue(0).completed()[0]?.data ?? new Uint8Array();
  };
  const request = (type: number, addr = 0n, blocks = 0): Uint8Array => {
    const bytes = new Uint8Array(24);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, type, true);
    // §5.15.6.3: paddings are ignored.
    view.setUint16(2, 0xffff, true);
    view.setBigUint64(8, addr, true);
    view.setUint16(16, blocks, true);
    view.setUint16(18, 0xffff, true);
    return bytes;
  };
  /** @returns type, and state, of the response; blocks count from the region's start. */
  const ask = (type: number, first = 0, blocks = 0): number[] => {
    const response = send(request(type, BigInt(GPA + first * BLOCK_SIZE), blocks));
    const view = new DataView(response.buffer, response.byteOffset);
    return [view.getUint16(0, true), view.getUint16(8, true)];
  };
  const field = (offset: number): number => Number(config.getBigUint64(offset, true));
  const close = (): void => {
    rig.close();
    growth.close();
    ram.close();
  };
  const refuse = (on: boolean): void => {
    refuses = on;
  };
  return {
    ram,
    device,
    growth,
    updates,
    logs,
    slots,
    rig,
    send,
    request,
    ask,
    field,
    close,
    refuse,
  };
}

const PLUGGED = abi.virtio_mem_config.plugged_size.offset;

for (const [format, ring] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`§5.15.6 blocks are plugged and unplugged (${format})`, async (t) => {
    const m = setUp(...ring);
    m.device.requested = 10;
    t.same(m.ask(PLUG, 2, 3), [ACK, 0]);
    t.equal(m.field(PLUGGED), 3 * BLOCK_SIZE);
    t.ok(m.ram.memory.offset(GPA + 2 * BLOCK_SIZE, 3 * BLOCK_SIZE) > 0);
    t.equal(m.ram.memory.offset(GPA + BLOCK_SIZE, 1), -1);
    t.same(m.ask(STATE, 2, 3), [ACK, abi.VIRTIO_MEM_STATE_PLUGGED]);
    t.same(m.ask(STATE, 5, 3), [ACK, abi.VIRTIO_MEM_STATE_UNPLUGGED]);
    t.same(m.ask(STATE, 4, 3), [ACK, abi.VIRTIO_MEM_STATE_MIXED]);
    t.same(m.ask(UNPLUG, 3, 1), [ACK, 0]);
    t.equal(m.ram.memory.offset(GPA + 3 * BLOCK_SIZE, 1), -1, 'no device reaches it');
    t.same(m.ask(UNPLUG_ALL), [ACK, 0]);
    t.equal(m.field(PLUGGED), 0);
    t.same(m.ask(STATE, 0, BLOCKS), [ACK, abi.VIRTIO_MEM_STATE_UNPLUGGED]);
    m.close();
  });
}

t.test('§5.15.4 the configuration', async (t) => {
  const m = setUp();
  const { block_size, addr, region_size, usable_region_size, requested_size } =
    abi.virtio_mem_config;
  t.equal(m.field(block_size.offset), BLOCK_SIZE);
  t.equal(m.field(addr.offset), GPA);
  t.equal(m.field(region_size.offset), BLOCKS * BLOCK_SIZE);
  t.equal(m.field(usable_region_size.offset), BLOCKS * BLOCK_SIZE);
  m.device.requested = 7;
  t.equal(m.field(requested_size.offset), 7 * BLOCK_SIZE);
  m.ask(PLUG, 0, 1);
  t.same(m.updates, [false, true], 'only what is requested is news to the driver');
  m.close();
});

t.test('§5.15.6.3 to §5.15.6.6 what is refused', async (t) => {
  const m = setUp();
  m.device.requested = BLOCKS;
  t.same(m.ask(PLUG, 10, 10), [ACK, 0]);
  t.same(m.ask(PLUG, 19, 2), [ERROR, 0], 'one is plugged');
  t.same(m.ask(UNPLUG, 9, 2), [ERROR, 0], 'one is not');
  for (const type of [PLUG, UNPLUG, STATE]) {
    t.same(m.ask(type, 30, 0), [ERROR, 0], 'no blocks');
    t.same(m.ask(type, 0.5, 1), [ERROR, 0], 'not aligned');
    t.same(m.ask(type, -1, 2), [ERROR, 0], 'below');
    t.same(m.ask(type, BLOCKS - 1, 2), [ERROR, 0], 'above');
    const response = m.send(m.request(type, 2n ** 64n - BigInt(BLOCK_SIZE), 1));
    t.equal(response[0], ERROR, 'the end of all addresses');
  }
  t.same(m.ask(9, 30, 1), [ERROR, 0], 'no such request');
  t.same(m.field(PLUGGED), 10 * BLOCK_SIZE);
  t.equal(m.send(m.request(PLUG).subarray(0, 23)).length, 0, 'too short');
  t.equal(m.send(m.request(UNPLUG_ALL), 9).length, 0, 'no room');
  m.close();
});

t.test('§5.15 no more is plugged than was requested', async (t) => {
  const m = setUp();
  t.same(m.ask(PLUG, 0, 1), [NACK, 0]);
  m.device.requested = 4;
  t.same(m.ask(PLUG, 0, 4), [ACK, 0]);
  t.same(m.ask(PLUG, 8, 1), [NACK, 0]);
  m.device.requested = 2;
  t.same(m.ask(UNPLUG, 0, 1), [ACK, 0]);
  t.same(m.ask(PLUG, 0, 1), [NACK, 0]);
  m.close();
});

t.test('a section has a memory slot while a block in it is plugged', async (t) => {
  const m = setUp();
  m.device.requested = BLOCKS;
  t.same([...m.slots], []);
  m.ask(PLUG, 60, 8);
  t.same(
    [...m.slots],
    [
      [40, [0, 128 * MiB, 0]],
      [41, [128 * MiB, 128 * MiB, 128 * MiB]],
    ],
  );
  m.ask(UNPLUG, 60, 4);
  t.same([...m.slots.keys()], [41]);
  m.ask(PLUG, BLOCKS - 1, 1);
  t.same(m.slots.get(42), [256 * MiB, 64 * MiB, 256 * MiB], 'the last one is shorter');
  m.refuse(true);
  t.same(m.ask(PLUG, 0, 1), [BUSY, 0]);
  t.match(m.logs, [/^mem0: .*KVM_SET_USER_MEMORY_REGION.*ENOMEM/]);
  t.equal(m.ram.memory.offset(GPA, 1), -1);
  m.close();
});

t.test('what is unplugged goes back to the host', async (t) => {
  const m = setUp();
  m.device.requested = BLOCKS;
  m.ask(PLUG, 0, BLOCKS);
  const offset = m.ram.memory.offset(GPA, 1);
  const bytes = m.ram.memory.bytes(offset, BLOCKS * BLOCK_SIZE);
  for (let at = 0; at < bytes.length; at += 4096) bytes[at] = 1;
  m.ask(UNPLUG, 1, BLOCKS - 1);
  m.ask(PLUG, 5, 1);
  const turns = Math.ceil(BLOCKS / 64) + 2;
  for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate);
  const left: number[] = [];
  for (let block = 0; block < BLOCKS; block++)
    if (bytes[block * BLOCK_SIZE] === 1) left.push(block);
  t.same(left, [0, 5], 'except what was plugged again in between');
  m.close();
});

t.test(
  '§5.15.5.2 a reset of the device changes no block, one of the system unplugs all',
  async (t) => {
    const m = setUp();
    m.device.requested = 5;
    m.ask(PLUG, 0, 5);
    m.rig.stop();
    m.rig.start(m.device.createHandler(), featureSet(VIRTIO_F_VERSION_1), [64]);
    t.same(m.ask(STATE, 0, 5), [ACK, abi.VIRTIO_MEM_STATE_PLUGGED]);
    m.growth.powerOff(false);
    t.same([m.device.requested, m.device.plugged, m.field(PLUGGED)], [5, 0, 0]);
    m.slots.clear();
    m.close();
  },
);

t.test('whatever requests come, the device agrees with a model', async () => {
  const m = setUp();
  m.device.requested = 100;
  const step = fc.record({
    type: fc.constantFrom(PLUG, UNPLUG, STATE, PLUG, UNPLUG, UNPLUG_ALL, 7),
    first: fc.oneof(fc.integer({ min: -2, max: BLOCKS + 2 }), fc.constant(0.25)),
    count: fc.oneof(fc.integer({ min: 0, max: 40 }), fc.constant(65535)),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      m.ask(UNPLUG_ALL);
      const model = new Set<number>();
      for (const { type, first, count } of steps) {
        const blocks = Array.from({ length: Math.min(count, 200) }, (_, at) => first + at);
        const inside =
          Number.isInteger(first) && first >= 0 && first + count <= BLOCKS && count > 0;
        const plugged = blocks.filter((block) => model.has(block)).length;
        let expected = ERROR;
        if (type === UNPLUG_ALL) {
          expected = ACK;
          model.clear();
        } else if (inside && type === STATE) {
          expected = ACK;
        } else if (inside && type === UNPLUG && plugged === count) {
          expected = ACK;
          for (const block of blocks) model.delete(block);
        } else if (inside && type === PLUG && plugged === 0) {
          expected = model.size + count > 100 ? NACK : ACK;
          if (expected === ACK) for (const block of blocks) model.add(block);
        }
        const [got] = m.ask(type, first, count);
        if (got !== expected) throw new Error(`${type} ${first} ${count}: ${got}, not ${expected}`);
        if (m.field(PLUGGED) !== model.size * BLOCK_SIZE) throw new Error('plugged_size is wrong');
      }
      for (let block = 0; block < BLOCKS; block++) {
        const reached = m.ram.memory.offset(GPA + block * BLOCK_SIZE, BLOCK_SIZE) >= 0;
        if (reached !== model.has(block)) throw new Error(`block ${block} is wrong`);
      }
      const sections = new Set([...model].map((block) => 40 + Math.floor(block / 64)));
      const slots = [...m.slots.keys()].sort().join();
      if (slots !== [...sections].sort().join()) throw new Error(`slots ${slots}`);
    }),
  );
  m.close();
});
