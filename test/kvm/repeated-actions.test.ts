/** Guests that do one thing forever, as fast as they can: how many messages the main thread gets. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { virtio_console_config } from '../../src/abi/virtio-console.ts';
import { VIRTIO_MMIO_CONFIG } from '../../src/abi/virtio-mmio.ts';
import { LocalMachine } from '../../src/machine/local-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { PVPANIC_PORT, VIRTIO_MMIO_BASE } from '../../src/platform/layout.ts';
import { elfKernel, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);

/** Exits of the guest while the main thread does not look. */
const EXITS = 5000;
/** What a MessagePort delivers in one turn of the event loop when no more than that waits. */
const TURN = 1000;

/** emerg_wr of the console, the first device. */
const EMERGENCY = VIRTIO_MMIO_BASE + VIRTIO_MMIO_CONFIG + virtio_console_config.emerg_wr.offset;
const address = new Uint8Array(Uint32Array.of(EMERGENCY).buffer);

/** 32-bit code, as PVH enters it. */
const GUESTS = {
  'emergency writes': [
    ...[0xb0, 0x41], // mov al, 'A'
    ...[0xa2, ...address], // mov [emerg_wr], al
    ...[0xeb, 0xf9], // jmp to the mov
  ],
  panics: [
    ...[0x66, 0xba, PVPANIC_PORT & 0xff, PVPANIC_PORT >> 8], // mov dx, port
    ...[0xb0, 0x01], // mov al, 1
    ...[0xee, 0xeb, 0xfd], // out dx, al; jmp to the out
  ],
  'serial output': [
    ...[0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
    ...[0xb0, 0x41], // mov al, 'A'
    ...[0xee, 0xeb, 0xfd], // out dx, al; jmp to the out
  ],
} as const;

for (const [name, code] of Object.entries(GUESTS)) {
  t.test(`${name} without end`, { skip }, async (t) => {
    const kernel = path.join(folder, 'kernel');
    const segments = [{ paddr: KERNEL_GPA, bytes: Uint8Array.from(code) }];
    writeFileSync(kernel, elfKernel({ segments, pvhEntry: KERNEL_GPA }));
    const options = { kernel, memory: 64 * MiB, rng: false, transport: 'mmio' } as const;
    await using vm = await LocalMachine.create(options);
    let messages = 0;
    const { on } = Worker.prototype;
    t.teardown(() => {
      Worker.prototype.on = on;
    });
    Worker.prototype.on = function (this: Worker, event: string, listener: (one: unknown) => void) {
      return on.call(this, event, (one: unknown) => {
        if (event === 'message') messages++;
        listener(one);
      });
    } as typeof on;
    await vm.start();
    const exits = (): number => vm.exitCounts().reduce((sum, count) => sum + count, 0);
    // The main thread is away: nothing that the guest does may pile up meanwhile.
    const before = exits();
    while (exits() < before + EXITS) {}
    messages = 0;
    await setImmediate();
    await setImmediate();
    t.ok(messages <= 2 * TURN, `${messages} messages of ${EXITS} exits`);
    await vm.stop();
    const { reason } = await vm.wait();
    t.equal(reason, name === 'panics' ? 'panic' : 'stopped');
  });
}
