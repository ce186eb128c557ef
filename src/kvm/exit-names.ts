/** Names of exit reasons and internal errors, for counters, traces and dumps. */
import * as constants from '../abi/kvm-constants.ts';
import * as ioctls from '../abi/kvm-ioctl.ts';

function namesOf(module: object, prefix: string, except: readonly string[]): Map<number, string> {
  const names = new Map<number, string>();
  for (const [name, value] of Object.entries(module)) {
    if (name.startsWith(prefix) && !except.includes(name)) names.set(Number(value), name);
  }
  return names;
}

const exits = namesOf(constants, 'KVM_EXIT_', ['KVM_EXIT_IO_IN', 'KVM_EXIT_IO_OUT']);
const internalErrors = namesOf(ioctls, 'KVM_INTERNAL_ERROR_', [
  'KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES',
]);
const capabilities = namesOf(constants, 'KVM_CAP_', []);

/** The header's name of an exit reason, e.g. `KVM_EXIT_MMIO`. */
export function exitName(reason: number): string {
  return exits.get(reason) ?? `KVM_EXIT_${reason}`;
}

/** The header's name of a `kvm_run.internal.suberror`. */
export function internalErrorName(suberror: number): string {
  return internalErrors.get(suberror) ?? `KVM_INTERNAL_ERROR_${suberror}`;
}

/** The header's name of a capability. */
export function capabilityName(capability: number): string {
  return capabilities.get(capability) ?? `KVM_CAP_${capability}`;
}
