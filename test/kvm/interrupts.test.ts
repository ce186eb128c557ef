/** ioeventfd, irqfd, MSI routes and INIT/SIPI with the in-kernel irqchip. */
import t from 'tap';
import { kvm_run_io } from '../../src/abi/kvm.ts';
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../src/abi/kvm-constants.ts';
import { KVM_MP_STATE_UNINITIALIZED } from '../../src/abi/kvm-ioctl.ts';
import { Eventfd } from '../../src/host/fd.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import { FIRST_MSI_GSI, GsiRouting } from '../../src/kvm/gsi-routing.ts';
import type { Vcpu } from '../../src/kvm/vcpu.ts';
import { LOCAL_APIC_ADDRESS } from '../../src/platform/layout.ts';
import { runInThread } from './run-thread.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

const skip = kvmMissing();
const HANDLER = 0x2000;
const PORT_READY = 0x80;
const PORT_HANDLED = 0x81;
const PORT_AP = 0x82;

/** Runs to the next OUT and returns its port, or the name of any other exit. */
function nextPort(vcpu: Vcpu): number | string {
  const result = vcpu.enter();
  if (result < 0) return `errno ${-result}`;
  if (vcpu.exitReason !== KVM_EXIT_IO) return exitName(vcpu.exitReason);
  return vcpu.run.getUint16(kvm_run_io.port.offset, true);
}

/** Points a real-mode interrupt vector at the handler. */
function setVector(guest: TinyGuest, vector: number): void {
  guest.load(vector * 4, [HANDLER & 0xff, HANDLER >> 8, 0, 0]);
}

/** Makes ES reach the local APIC's registers from real mode. */
function openLocalApic(guest: TinyGuest): void {
  const { es } = guest.vcpu.getSystemRegisters();
  const base = BigInt(LOCAL_APIC_ADDRESS);
  guest.vcpu.setSystemRegisters({ es: { ...es, base, limit: 0xffff_ffffn, g: 1n } });
}

const ENABLE_APIC = [0x26, 0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00]; // mov dword es:[0xf0], 0x1ff
const STI = 0xfb;
const OUT_READY = [0xe6, PORT_READY]; // out 0x80, al
const HALT_FOR_EVER = [0xf4, 0xeb, 0xfd]; // hlt; jmp -3

t.test('KVM API 4.59: a port write with an ioeventfd makes no exit', { skip }, (t) => {
  using guest = new TinyGuest({
    code: [
      ...[0xba, 0x00, 0x05], // mov dx, 0x500
      ...[0xef], // out dx, ax
      ...[0xef], // out dx, ax
      ...OUT_READY,
      ...[0xef], // out dx, ax
    ],
  });
  using kick = new Eventfd();
  const match = { address: 0x500, length: 2, pio: true } as const;
  guest.vm.assignIoeventfd(match, kick.fd);
  t.throws(() => guest.vm.assignIoeventfd(match, kick.fd), /EEXIST/);
  t.equal(nextPort(guest.vcpu), PORT_READY);
  t.equal(kick.drain(), true);
  guest.vm.deassignIoeventfd(match, kick.fd);
  t.equal(nextPort(guest.vcpu), 0x500, 'an exit again');
  t.equal(kick.drain(), false);
  t.end();
});

t.test('KVM_IOEVENTFD_FLAG_DATAMATCH: only the value given makes no exit', { skip }, (t) => {
  using guest = new TinyGuest({
    code: [
      ...[0xba, 0x00, 0x05], // mov dx, 0x500
      ...[0xb8, 0x07, 0x00], // mov ax, 7
      ...[0xef], // out dx, ax
      ...OUT_READY,
      ...[0xb8, 0x08, 0x00], // mov ax, 8
      ...[0xef], // out dx, ax
    ],
  });
  using kick = new Eventfd();
  guest.vm.assignIoeventfd({ address: 0x500, length: 2, pio: true, datamatch: 7 }, kick.fd);
  t.equal(nextPort(guest.vcpu), PORT_READY);
  t.equal(kick.drain(), true);
  t.equal(nextPort(guest.vcpu), 0x500);
  t.end();
});

t.test('a memory write of any width, KVM_CAP_IOEVENTFD_ANY_LENGTH', { skip }, (t) => {
  using guest = new TinyGuest({
    memory: 0x9_0000,
    code: [
      ...[0xb8, 0x00, 0xa0], // mov ax, 0xa000
      ...[0x8e, 0xd8], // mov ds, ax
      ...[0xc6, 0x06, 0x00, 0x00, 0x5a], // mov byte [0], 0x5a
      ...[0x66, 0xc7, 0x06, 0x00, 0x00, 1, 0, 0, 0], // mov dword [0], 1
      ...OUT_READY,
      ...[0xc6, 0x06, 0x08, 0x00, 0x5a], // mov byte [8], 0x5a
    ],
  });
  using kick = new Eventfd();
  guest.vm.assignIoeventfd({ address: 0xa_0000, length: 0, pio: false }, kick.fd);
  t.equal(nextPort(guest.vcpu), PORT_READY);
  t.equal(kick.drain(), true);
  t.equal(nextPort(guest.vcpu), exitName(KVM_EXIT_MMIO), 'another address');
  t.end();
});

t.test('KVM API 4.75: an irqfd interrupts through the 8259', { skip }, (t) => {
  using guest = new TinyGuest({
    irqchip: true,
    code: [
      ...[0xb0, 0x11, 0xe6, 0x20], // ICW1: edge, cascade, ICW4 follows
      ...[0xb0, 0x20, 0xe6, 0x21], // ICW2: vectors from 0x20
      ...[0xb0, 0x04, 0xe6, 0x21], // ICW3: slave at pin 2
      ...[0xb0, 0x01, 0xe6, 0x21], // ICW4: 8086 mode
      ...[0xb0, 0x00, 0xe6, 0x21], // OCW1: no pin masked
      STI,
      ...OUT_READY,
      ...HALT_FOR_EVER,
    ],
  });
  setVector(guest, 0x24);
  guest.load(HANDLER, [
    ...[0xe6, PORT_HANDLED], // out 0x81, al
    ...[0xb0, 0x20, 0xe6, 0x20], // OCW2: end of interrupt
    ...[0xcf], // iret
  ]);
  using line = new Eventfd();
  t.equal(nextPort(guest.vcpu), PORT_READY);
  guest.vm.assignIrqfd(4, line.fd);
  for (let i = 0; i < 3; i++) {
    line.signal();
    t.equal(nextPort(guest.vcpu), PORT_HANDLED);
  }
  guest.vm.deassignIrqfd(4, line.fd);
  guest.vm.setIrqLine(4, true);
  t.equal(nextPort(guest.vcpu), PORT_HANDLED, 'KVM_IRQ_LINE, API 4.25');
  t.end();
});

t.test('KVM API 4.52: an irqfd sends the MSI of its route', { skip }, (t) => {
  using guest = new TinyGuest({
    irqchip: true,
    code: [...ENABLE_APIC, STI, ...OUT_READY, ...HALT_FOR_EVER],
  });
  openLocalApic(guest);
  setVector(guest, 0x50);
  guest.load(HANDLER, [
    ...[0xe6, PORT_HANDLED], // out 0x81, al
    ...[0x26, 0x66, 0xc7, 0x06, 0xb0, 0x00, 0, 0, 0, 0], // mov dword es:[0xb0], 0: end of interrupt
    ...[0xcf], // iret
  ]);
  const table = new DataView(new SharedArrayBuffer(GsiRouting.bytes(4)));
  const routing = new GsiRouting(table, 4);
  routing.initialize();
  t.equal(routing.commit(guest.vm.fd), 0);
  t.equal(nextPort(guest.vcpu), PORT_READY);
  using vector = new Eventfd();
  const gsi = FIRST_MSI_GSI + 3;
  guest.vm.assignIrqfd(gsi, vector.fd);
  routing.setMsi(gsi, LOCAL_APIC_ADDRESS, 0, 0x50);
  t.equal(routing.commit(guest.vm.fd), 0);
  vector.signal();
  t.equal(nextPort(guest.vcpu), PORT_HANDLED);
  guest.vm.deassignIrqfd(gsi, vector.fd);
  vector.drain();
  vector.signal();
  guest.vm.assignIrqfd(gsi, vector.fd);
  t.equal(nextPort(guest.vcpu), PORT_HANDLED, 'what was signalled while unassigned');
  t.throws(() => routing.setMsi(FIRST_MSI_GSI + 4, 0, 0, 0), RangeError);
  t.end();
});

t.test('SDM 3A §9.4: INIT and SIPI start a second vCPU', { skip }, async (t) => {
  using guest = new TinyGuest({
    irqchip: true,
    cpus: 2,
    code: [
      ...ENABLE_APIC,
      ...[0x26, 0x66, 0xc7, 0x06, 0x10, 0x03, 0, 0, 0, 0x01], // ICR high: APIC 1
      ...[0x26, 0x66, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0, 0], // ICR low: INIT
      ...[0x26, 0x66, 0xc7, 0x06, 0x00, 0x03, 0x02, 0x46, 0, 0], // ICR low: SIPI at 0x2000
      ...OUT_READY,
    ],
  });
  openLocalApic(guest);
  guest.load(HANDLER, [0xe6, PORT_AP]); // out 0x82, al
  const ap = guest.vcpus[1];
  if (ap === undefined) throw new Error('no second vCPU');
  t.equal(ap.mpState, KVM_MP_STATE_UNINITIALIZED);
  const { outcome } = await runInThread(ap);
  t.equal(nextPort(guest.vcpu), PORT_READY);
  const { reason, port } = await outcome;
  t.equal(exitName(reason), exitName(KVM_EXIT_IO));
  t.equal(port, PORT_AP);
});
