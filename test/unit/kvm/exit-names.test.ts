import t from 'tap';
import { KVM_CAP_IRQFD, KVM_EXIT_IO, KVM_EXIT_NOTIFY } from '../../../src/abi/kvm-constants.ts';
import { capabilityName, exitName, internalErrorName } from '../../../src/kvm/exit-names.ts';

t.test('names are the header’s; unknown numbers keep the prefix', (t) => {
  t.equal(exitName(0), 'KVM_EXIT_UNKNOWN');
  t.equal(exitName(1), 'KVM_EXIT_EXCEPTION', 'not KVM_EXIT_IO_OUT');
  t.equal(exitName(KVM_EXIT_IO), 'KVM_EXIT_IO');
  t.equal(exitName(KVM_EXIT_NOTIFY), 'KVM_EXIT_NOTIFY');
  t.equal(exitName(999), 'KVM_EXIT_999');
  t.equal(internalErrorName(1), 'KVM_INTERNAL_ERROR_EMULATION');
  t.equal(internalErrorName(77), 'KVM_INTERNAL_ERROR_77');
  t.equal(capabilityName(KVM_CAP_IRQFD), 'KVM_CAP_IRQFD');
  t.equal(capabilityName(9999), 'KVM_CAP_9999');
  t.end();
});
