/** The reset vector's code on a real (or software) processor in real mode. */
import t from 'tap';
import { kvm_run_io } from '../../src/abi/kvm.ts';
import { KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_IO_OUT } from '../../src/abi/kvm-constants.ts';
import { writeResetVector } from '../../src/boot/boot-layout.ts';
import { RESET_PORT, RESET_VALUE } from '../../src/platform/layout.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

t.test('a jump to F000:FFF0 writes the reset register', { skip: kvmMissing() }, async (t) => {
  using guest = new TinyGuest({ code: [0xea, 0xf0, 0xff, 0x00, 0xf0] });
  writeResetVector(guest.memory);
  const { vcpu } = guest;
  t.equal(vcpu.enter(), 0);
  t.equal(vcpu.exitReason, KVM_EXIT_IO);
  t.equal(vcpu.run.getUint8(kvm_run_io.direction.offset), KVM_EXIT_IO_OUT);
  t.equal(vcpu.run.getUint16(kvm_run_io.port.offset, true), RESET_PORT);
  t.equal(vcpu.run.getUint8(kvm_run_io.size_.offset), 1);
  const data = Number(vcpu.run.getBigUint64(kvm_run_io.data_offset.offset, true));
  t.equal(vcpu.run.getUint8(data), RESET_VALUE);
  t.equal(vcpu.enter(), 0);
  t.equal(vcpu.exitReason, KVM_EXIT_HLT, 'and stops there until the machine is reset');
});
