/** Ends of a run: a kick, a triple fault, an internal error with its dump. */
import { setImmediate } from 'node:timers/promises';
import t from 'tap';
import { EINTR } from '../../src/abi/errno.ts';
import {
  KVM_EXIT_HLT,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_SHUTDOWN,
} from '../../src/abi/kvm-constants.ts';
import { kickThread } from '../../src/host/threads.ts';
import { dumpVcpu, summarizeExit } from '../../src/kvm/dump.ts';
import { enterFlatMode } from '../../src/kvm/entry.ts';
import { exitName } from '../../src/kvm/exit-names.ts';
import { runInThread } from './run-thread.ts';
import { CODE, kvmMissing, STACK_TOP, TinyGuest } from './tiny-guest.ts';

const skip = kvmMissing();
const COUNTER = 0x3000;

/** Counts in memory forever. */
const ENDLESS = [
  ...[0xff, 0x06, 0x00, 0x30], // inc word [0x3000]
  ...[0xeb, 0xfa], // jmp -6
];

t.test('a signal takes a vCPU out of an endless loop, which then runs on', { skip }, async (t) => {
  using guest = new TinyGuest({ code: ENDLESS });
  const { vcpu, memory } = guest;
  const counter = memory.offset(COUNTER, 2);
  for (let round = 0; round < 3; round++) {
    const before = memory.readU16(counter);
    const { tid, outcome } = await runInThread(vcpu);
    while (memory.readU16(counter) === before) await setImmediate();
    vcpu.immediateExit = true;
    t.equal(kickThread(tid), 0);
    t.equal((await outcome).result, -EINTR);
    vcpu.immediateExit = false;
  }
});

t.test('a kick that comes before KVM_RUN is not lost', { skip }, async (t) => {
  using guest = new TinyGuest({ code: ENDLESS });
  guest.vcpu.immediateExit = true;
  const { outcome } = await runInThread(guest.vcpu);
  t.equal((await outcome).result, -EINTR);
  t.equal(guest.memory.readU16(COUNTER), 0, 'the guest did not run');
});

t.test('a kick takes a vCPU out of HLT with the in-kernel irqchip', { skip }, async (t) => {
  using guest = new TinyGuest({ irqchip: true, code: [0xfe, 0x06, 0x00, 0x30, 0xf4] });
  const { tid, outcome } = await runInThread(guest.vcpu);
  while (guest.memory.readU8(COUNTER) === 0) await setImmediate();
  guest.vcpu.immediateExit = true;
  t.equal(kickThread(tid), 0);
  t.equal((await outcome).result, -EINTR);
});

t.test('KVM_EXIT_SHUTDOWN: a fault without an IDT is a triple fault', { skip }, (t) => {
  using guest = new TinyGuest({ code: [0x0f, 0x0b] }); // ud2
  enterFlatMode(guest.vcpu, CODE, STACK_TOP);
  t.equal(guest.vcpu.enter(), 0);
  t.equal(exitName(guest.vcpu.exitReason), exitName(KVM_EXIT_SHUTDOWN));
  t.equal(summarizeExit(guest.vcpu), 'vCPU 0: KVM_EXIT_SHUTDOWN: triple fault');
  t.end();
});

t.test('KVM_EXIT_INTERNAL_ERROR: the dump shows where and what', { skip }, (t) => {
  using guest = new TinyGuest({
    memory: 0x9_0000,
    code: [
      ...[0x66, 0xbb, 0xef, 0xbe, 0xad, 0xde], // mov ebx, 0xdeadbeef
      ...[0xea, 0x00, 0x00, 0x00, 0xa0], // jmp 0xa000:0x0000, where no memory is
    ],
  });
  t.equal(guest.vcpu.enter(), 0);
  t.equal(exitName(guest.vcpu.exitReason), exitName(KVM_EXIT_INTERNAL_ERROR));
  t.match(
    summarizeExit(guest.vcpu),
    /^vCPU 0: KVM_EXIT_INTERNAL_ERROR: KVM_INTERNAL_ERROR_EMULATION/,
  );
  const dump = dumpVcpu(guest.vcpu, guest.memory);
  t.match(dump, /rbx +0x00000000deadbeef/);
  t.match(dump, /^cs +0xa000 base 0x00000000000a0000/m);
  t.match(dump, /^code .*> not mapped to RAM$/m);
  t.end();
});

t.test('a dump shows the bytes around RIP', { skip }, (t) => {
  using guest = new TinyGuest({ code: [0x90, 0x90, 0xf4, 0xeb, 0xfe] });
  t.equal(guest.vcpu.enter(), 0);
  t.equal(guest.vcpu.exitReason, KVM_EXIT_HLT);
  t.equal(guest.vcpu.getRegisters().rip, BigInt(CODE + 3));
  t.match(dumpVcpu(guest.vcpu, guest.memory), /^code .*90 90 f4 > eb fe 00/m);
  t.end();
});
