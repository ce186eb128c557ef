import t from 'tap';
import { Kvm, REQUIRED_CAPABILITIES } from '../../src/kvm/kvm.ts';
import { knownKvm, probeKvm } from '../../src/kvm/probe.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();

t.test('the probe detects whether guest code runs on a CPU', { skip }, (t) => {
  const probe = probeKvm(true);
  t.not(probe.kind, 'none');
  t.ok(probe.mips > 0);
  t.equal(probe.usable, probe.kind === 'hardware');
  t.match(probe.detail, /million instructions\/s/);
  const quick = probeKvm();
  t.equal(quick.kind, probe.kind);
  t.equal(quick.mips, 0);
  t.same(knownKvm(), quick);
  t.equal(knownKvm(), knownKvm(), 'probed once');
  t.end();
});

t.test('an open KVM has every required capability', { skip }, (t) => {
  using kvm = Kvm.open();
  for (const capability of REQUIRED_CAPABILITIES) t.ok(kvm.check(capability) > 0);
  t.ok(kvm.maxVcpus >= 1);
  t.ok(kvm.supportedCpuid().some((entry) => entry.function === 1));
  t.ok(kvm.msrIndices().length > 0);
  t.end();
});
