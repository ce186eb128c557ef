/** The emulated card in a real machine: a guest of a few instructions sends a packet by itself. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import * as e1000 from '../../src/abi/e1000.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { elfKernel, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { tapReason } from '../support/rigs/host.ts';
import { kvmMissing } from './tiny-guest.ts';

const TAP = `nvmnic${process.pid % 100_000}`;
const skip = kvmMissing() || tapReason();
const folder = testFolder(t);

/** Behind the console in slot 1. */
const SLOT = 2;
/** Where the guest puts the card's registers. */
const BAR = 0xd000_0000;
const RING = KERNEL_GPA + 0x1000;
const FRAME = KERNEL_GPA + 0x2000;
const FRAME_LENGTH = 60;

const le32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)];
/** mov dx, port; mov eax, value; out dx, eax */
const outl = (port: number, value: number): number[] => [
  ...[0x66, 0xba, port & 0xff, port >> 8],
  ...[0xb8, ...le32(value)],
  0xef,
];
const configure = (offset: number, value: number): number[] => [
  ...outl(0xcf8, 0x8000_0000 + (SLOT << 11) + offset),
  ...outl(0xcfc, value),
];
/** mov dword [address], value */
const store = (address: number, value: number): number[] => [
  ...[0xc7, 0x05, ...le32(address)],
  ...le32(value),
];
const print = (text: string): number[] =>
  [...Buffer.from(text)].flatMap((byte) => [0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);

const CODE = [
  ...configure(0x10, BAR),
  ...configure(0x04, 0x6),
  ...store(BAR + e1000.TDBAL, RING),
  ...store(BAR + e1000.TDLEN, 128),
  ...store(BAR + e1000.TCTL, e1000.TCTL_EN),
  ...store(BAR + e1000.TDT, 1),
  // Until the descriptor is done: test byte [ring + 12], 1; jz -9.
  ...[0xf6, 0x05, ...le32(RING + 12), e1000.TXD_STAT_DD, 0x74, 0xf7],
  ...print('sent\n'),
  // hlt; jmp -3
  ...[0xf4, 0xeb, 0xfd],
];

function kernel(): string {
  const file = path.join(folder, 'kernel');
  const ring = new Uint8Array(128);
  const descriptor = new DataView(ring.buffer);
  descriptor.setUint32(0, FRAME, true);
  descriptor.setUint32(8, FRAME_LENGTH | e1000.TXD_CMD_EOP | e1000.TXD_CMD_RS, true);
  const frame = new Uint8Array(FRAME_LENGTH);
  frame.fill(0xff, 0, 6);
  frame.set([2, 0, 0, 0, 0, 9, 0x88, 0xb5], 6);
  const segments = [
    { paddr: KERNEL_GPA, bytes: Uint8Array.from(CODE) },
    { paddr: RING, bytes: ring },
    { paddr: FRAME, bytes: frame },
  ];
  writeFileSync(file, elfKernel({ segments, pvhEntry: KERNEL_GPA }));
  return file;
}

t.test('a packet by loads and stores alone, and nothing stays behind', { skip }, async (t) => {
  const log: string[] = [];
  {
    await using vm = await VirtualMachine.create({
      kernel: kernel(),
      memory: 64 * MiB,
      rng: false,
      nets: [{ tap: TAP, model: 'e1000' }],
    });
    vm.on('log', (line) => log.push(line));
    const output = (async () => {
      let all = '';
      for await (const bytes of vm.serial.iterator({ destroyOnReturn: false })) {
        all += bytes;
        if (all.includes('\n')) return all;
      }
      return all;
    })();
    await vm.start();
    t.equal(await output, 'sent\n');
    // What the guest sent is what the tap received.
    const received = readFileSync(`/sys/class/net/${TAP}/statistics/rx_bytes`, 'utf8');
    t.ok(Number(received) >= FRAME_LENGTH, received.trim());
    t.equal((await vm.metrics()).exits.KVM_EXIT_MMIO, 4, 'an exit for each register');
    await vm.pause();
    await vm.resume();
    await vm.stop();
    t.equal((await vm.wait()).reason, 'stopped');
  }
  t.notOk(existsSync(`/sys/class/net/${TAP}`), 'the tap is gone');
  t.same(log, []);
});

t.test('a machine that is never started releases the tap', { skip }, async (t) => {
  const nets = [{ tap: TAP, model: 'e1000' as const }];
  const vm = await VirtualMachine.create({ kernel: kernel(), memory: 64 * MiB, nets });
  t.ok(existsSync(`/sys/class/net/${TAP}`));
  await vm[Symbol.asyncDispose]();
  t.notOk(existsSync(`/sys/class/net/${TAP}`));
  const refused = VirtualMachine.create({ kernel: '/k', nets: [{ ...nets[0], mtu: 20_000 }] });
  await t.rejects(refused, { code: 'E_NET_MTU' });
  const second = VirtualMachine.create({
    kernel: '/k',
    nets: [...nets, { tap: '%', model: 'e1000' }],
  });
  await t.rejects(second, { code: 'E_TAP_NAME' });
  t.notOk(existsSync(`/sys/class/net/${TAP}`), 'also when another one cannot be created');
});
