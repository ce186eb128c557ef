/** Exits that reach userspace: ports, memory-mapped I/O, HLT. */
import t from 'tap';
import { kvm_run_io, kvm_run_mmio } from '../../src/abi/kvm.ts';
import {
  KVM_EXIT_HLT,
  KVM_EXIT_IO,
  KVM_EXIT_IO_IN,
  KVM_EXIT_IO_OUT,
  KVM_EXIT_MMIO,
} from '../../src/abi/kvm-constants.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import type { Vcpu } from '../../src/kvm/vcpu.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

const skip = kvmMissing();

function enter(vcpu: Vcpu): string {
  const result = vcpu.enter();
  return result < 0 ? `errno ${-result}` : exitName(vcpu.exitReason);
}

t.test('KVM API 5, KVM_EXIT_IO: OUT hands over port, width and data', { skip }, (t) => {
  using guest = new TinyGuest({
    code: [
      ...[0xba, 0xf8, 0x03], // mov dx, 0x3f8
      ...[0x66, 0xb8, 0x44, 0x33, 0x22, 0x11], // mov eax, 0x11223344
      ...[0xee], // out dx, al
      ...[0xef], // out dx, ax
      ...[0x66, 0xef], // out dx, eax
    ],
  });
  const { run } = guest.vcpu;
  for (const [size, value] of [
    [1, 0x44],
    [2, 0x3344],
    [4, 0x11223344],
  ] as const) {
    t.equal(enter(guest.vcpu), exitName(KVM_EXIT_IO));
    t.equal(run.getUint8(kvm_run_io.direction.offset), KVM_EXIT_IO_OUT);
    t.equal(run.getUint16(kvm_run_io.port.offset, true), 0x3f8);
    t.equal(run.getUint8(kvm_run_io.size_.offset), size);
    t.equal(run.getUint32(kvm_run_io.count.offset, true), 1);
    const data = Number(run.getBigUint64(kvm_run_io.data_offset.offset, true));
    const mask = 2 ** (8 * size);
    t.equal(run.getUint32(data, true) % mask, value);
  }
  t.end();
});

t.test('KVM_EXIT_IO: IN takes the data that is left in kvm_run', { skip }, (t) => {
  using guest = new TinyGuest({
    code: [
      ...[0xe4, 0x60], // in al, 0x60
      ...[0xf4], // hlt
    ],
  });
  const { run } = guest.vcpu;
  t.equal(enter(guest.vcpu), exitName(KVM_EXIT_IO));
  t.equal(run.getUint8(kvm_run_io.direction.offset), KVM_EXIT_IO_IN);
  run.setUint8(Number(run.getBigUint64(kvm_run_io.data_offset.offset, true)), 0xa5);
  t.equal(enter(guest.vcpu), exitName(KVM_EXIT_HLT));
  t.equal(guest.vcpu.getRegisters().rax & 0xffn, 0xa5n);
  t.end();
});

t.test('KVM_EXIT_IO: a string instruction may come with a count', { skip }, (t) => {
  using guest = new TinyGuest({
    code: [
      ...[0xba, 0x80, 0x00], // mov dx, 0x80
      ...[0xbe, 0x00, 0x20], // mov si, 0x2000
      ...[0xb9, 0x03, 0x00], // mov cx, 3
      ...[0xfc], // cld
      ...[0xf3, 0x6e], // rep outsb
      ...[0xf4], // hlt
    ],
  });
  guest.load(0x2000, [1, 2, 3]);
  const { run } = guest.vcpu;
  const seen: number[] = [];
  while (enter(guest.vcpu) === exitName(KVM_EXIT_IO)) {
    const data = Number(run.getBigUint64(kvm_run_io.data_offset.offset, true));
    const count = run.getUint32(kvm_run_io.count.offset, true);
    for (let i = 0; i < count; i++) seen.push(run.getUint8(data + i));
  }
  t.equal(guest.vcpu.exitReason, KVM_EXIT_HLT);
  t.same(seen, [1, 2, 3]);
  t.end();
});

t.test('KVM_EXIT_MMIO: an access where no memory slot is', { skip }, (t) => {
  using guest = new TinyGuest({
    memory: 0x9_0000,
    code: [
      ...[0xb8, 0x00, 0xa0], // mov ax, 0xa000
      ...[0x8e, 0xd8], // mov ds, ax
      ...[0xc6, 0x06, 0x10, 0x00, 0x5a], // mov byte [0x10], 0x5a
      ...[0xa1, 0x20, 0x00], // mov ax, [0x20]
      ...[0xf4], // hlt
    ],
  });
  const { run } = guest.vcpu;
  t.equal(enter(guest.vcpu), exitName(KVM_EXIT_MMIO));
  t.equal(run.getBigUint64(kvm_run_mmio.phys_addr.offset, true), 0xa_0010n);
  t.equal(run.getUint8(kvm_run_mmio.is_write.offset), 1);
  t.equal(run.getUint32(kvm_run_mmio.len.offset, true), 1);
  t.equal(run.getUint8(kvm_run_mmio.data.offset), 0x5a);
  t.equal(enter(guest.vcpu), exitName(KVM_EXIT_MMIO));
  t.equal(run.getBigUint64(kvm_run_mmio.phys_addr.offset, true), 0xa_0020n);
  t.equal(run.getUint8(kvm_run_mmio.is_write.offset), 0);
  run.setUint16(kvm_run_mmio.data.offset, 0xbeef, true);
  t.equal(enter(guest.vcpu), exitName(KVM_EXIT_HLT));
  t.equal(guest.vcpu.getRegisters().rax & 0xffffn, 0xbeefn);
  t.end();
});

t.test(
  'immediate_exit: a pending exit is completed and the guest does not run on',
  { skip },
  (t) => {
    using guest = new TinyGuest({
      code: [
        ...[0xe4, 0x60], // in al, 0x60
        ...[0xf4], // hlt
      ],
    });
    const { vcpu } = guest;
    t.equal(enter(vcpu), exitName(KVM_EXIT_IO));
    vcpu.run.setUint8(Number(vcpu.run.getBigUint64(kvm_run_io.data_offset.offset, true)), 0x77);
    vcpu.completeExit();
    const { rip, rax } = vcpu.getRegisters();
    t.equal(rip, 0x1002n);
    t.equal(rax & 0xffn, 0x77n);
    t.equal(enter(vcpu), exitName(KVM_EXIT_HLT));
    t.end();
  },
);
