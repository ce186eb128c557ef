/**
 * _OSC of the PCI host bridge (ACPI 6.5 §6.2.12, PCI Firmware 3.3 §4.5.1): which features of PCI
 * Express the operating system may control.
 */
import * as aml from './aml.ts';

/** UUID of a PCI host bridge's capabilities, and the revision that is spoken. */
const PCI_HOST_BRIDGE_UUID = '33db4d5b-1ff7-401c-9657-7441c03dd766';
const REVISION = 1;
/** The buffer's 32-bit words: status, support, control. */
const WORDS = 3;

/** Bits of the status word. */
const STATUS_FAILURE = 1 << 1;
const STATUS_UNRECOGNIZED_UUID = 1 << 2;
const STATUS_UNRECOGNIZED_REVISION = 1 << 3;
const STATUS_CAPABILITIES_MASKED = 1 << 4;

/** Bits of the control word. */
export const OSC_NATIVE_HOT_PLUG = 1 << 0;
export const OSC_SHPC_HOT_PLUG = 1 << 1;
export const OSC_PME = 1 << 2;
export const OSC_AER = 1 << 3;
export const OSC_CAPABILITY_STRUCTURE = 1 << 4;
export const OSC_LTR = 1 << 5;
export const OSC_DPC = 1 << 7;

/** No firmware is active at run time that could use any of them itself. */
export const OSC_GRANTED =
  OSC_NATIVE_HOT_PLUG |
  OSC_SHPC_HOT_PLUG |
  OSC_PME |
  OSC_AER |
  OSC_CAPABILITY_STRUCTURE |
  OSC_LTR |
  OSC_DPC;

/**
 * The method. It keeps no state: what was granted once is granted in every later call too, and a
 * query (bit 0 of the status word) is answered like a request.
 */
export function pciOsc(): aml.Aml {
  const [uuid, revision, words, capabilities] = [aml.arg(0), aml.arg(1), aml.arg(2), aml.arg(3)];
  const status = aml.nameString('STAT');
  const control = aml.nameString('CTRL');
  const flag = (bit: number): aml.Aml => aml.or(status, aml.integer(bit), status);
  const refuse = (bit: number): aml.Aml[] => [flag(bit), aml.returnValue(capabilities)];
  return aml.serializedMethod(
    '_OSC',
    4,
    aml.createDWordField(capabilities, 0, 'STAT'),
    aml.ifTrue(
      aml.notEqual(uuid, aml.uuid(PCI_HOST_BRIDGE_UUID)),
      ...refuse(STATUS_UNRECOGNIZED_UUID),
    ),
    aml.ifTrue(
      aml.notEqual(revision, aml.integer(REVISION)),
      ...refuse(STATUS_UNRECOGNIZED_REVISION),
    ),
    aml.ifTrue(aml.less(words, aml.integer(WORDS)), ...refuse(STATUS_FAILURE)),
    aml.createDWordField(capabilities, 8, 'CTRL'),
    aml.and(control, aml.integer(OSC_GRANTED), aml.LOCAL0),
    aml.ifTrue(aml.notEqual(aml.LOCAL0, control), flag(STATUS_CAPABILITIES_MASKED)),
    aml.store(aml.LOCAL0, control),
    aml.returnValue(capabilities),
  );
}
