/** Reports of exits that end a machine: one line, and a register dump as a text block. */
import * as abi from '../abi/kvm.ts';
import * as constants from '../abi/kvm-constants.ts';
import {
  KVM_INTERNAL_ERROR_EMULATION,
  KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
} from '../abi/kvm-ioctl.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { exitName, internalErrorName } from './exit-names.ts';
import {
  CONTROL_NAMES,
  REGISTER_NAMES,
  type Registers,
  SEGMENT_NAMES,
  type SystemRegisters,
  TABLE_NAMES,
} from './registers.ts';
import type { Vcpu } from './vcpu.ts';

/** `kvm_run.internal.data` has so many elements. */
const INTERNAL_DATA = 16;
/** Bytes shown before and from RIP on. */
const CODE_BEFORE = 16;
const CODE_AFTER = 32;
const NAME_WIDTH = 9;
const PER_LINE = 4;

function hex(value: bigint | number, digits = 0): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

function hexBytes(bytes: Iterable<number>): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

/** One line with a vCPU's last exit and its details from KVM. */
export function summarizeExit(vcpu: Vcpu): string {
  const reason = vcpu.exitReason;
  const detail = exitDetail(vcpu.run, reason);
  return `vCPU ${vcpu.share.id}: ${exitName(reason)}${detail === '' ? '' : `: ${detail}`}`;
}

function exitDetail(run: DataView, reason: number): string {
  switch (reason) {
    case constants.KVM_EXIT_UNKNOWN:
      return `hardware exit reason ${hex(run.getBigUint64(abi.kvm_run_hw.hardware_exit_reason.offset, true))}`;
    case constants.KVM_EXIT_EXCEPTION:
      return `exception ${run.getUint32(abi.kvm_run_ex.exception.offset, true)}, error code ${hex(
        run.getUint32(abi.kvm_run_ex.error_code.offset, true),
      )}`;
    case constants.KVM_EXIT_FAIL_ENTRY:
      return `the CPU refused to enter the guest, reason ${hex(
        run.getBigUint64(abi.kvm_run_fail_entry.hardware_entry_failure_reason.offset, true),
      )}, on CPU ${run.getUint32(abi.kvm_run_fail_entry.cpu.offset, true)}`;
    case constants.KVM_EXIT_SHUTDOWN:
      return 'triple fault';
    case constants.KVM_EXIT_SYSTEM_EVENT:
      return `type ${run.getUint32(abi.kvm_run_system_event.type.offset, true)}`;
    case constants.KVM_EXIT_INTERNAL_ERROR:
      return internalErrorDetail(run);
    default:
      return '';
  }
}

function internalErrorDetail(run: DataView): string {
  const suberror = run.getUint32(abi.kvm_run_internal.suberror.offset, true);
  const count = Math.min(run.getUint32(abi.kvm_run_internal.ndata.offset, true), INTERNAL_DATA);
  const name = internalErrorName(suberror);
  if (suberror === KVM_INTERNAL_ERROR_EMULATION && count > 0) {
    const flags = run.getBigUint64(abi.kvm_run_emulation_failure.flags.offset, true);
    if ((flags & BigInt(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) !== 0n) {
      const { offset, length } = abi.kvm_run_emulation_failure.insn_bytes;
      const size = Math.min(run.getUint8(abi.kvm_run_emulation_failure.insn_size.offset), length);
      const bytes = Array.from({ length: size }, (_, i) => run.getUint8(offset + i));
      return `${name}, instruction bytes ${hexBytes(bytes)}`;
    }
  }
  const data = Array.from({ length: count }, (_, i) =>
    hex(run.getBigUint64(abi.kvm_run_internal.data.offset + i * 8, true)),
  );
  return count === 0 ? name : `${name}, data ${data.join(' ')}`;
}

/**
 * A text block with everything about a stopped vCPU: exit, registers, segments, the bytes around
 * RIP. To be called in the vCPU's thread, or when that has ended.
 */
export function dumpVcpu(vcpu: Vcpu, memory: GuestMemory): string {
  const registers = vcpu.getRegisters();
  const system = vcpu.getSystemRegisters();
  return [
    summarizeExit(vcpu),
    ...columns(REGISTER_NAMES.map((name) => [name, registers[name]])),
    ...columns(CONTROL_NAMES.map((name) => [name, system[name]])),
    ...SEGMENT_NAMES.map((name) => segmentLine(name, system)),
    ...TABLE_NAMES.map(
      (name) =>
        `${name.padEnd(NAME_WIDTH)} base ${hex(system[name].base, 16)} limit ${hex(system[name].limit, 8)}`,
    ),
    codeLine(vcpu, memory, registers, system),
  ].join('\n');
}

function columns(values: [string, bigint][]): string[] {
  const cells = values.map(([name, value]) => `${name.padEnd(NAME_WIDTH)} ${hex(value, 16)}`);
  const rows = Math.ceil(cells.length / PER_LINE);
  return Array.from({ length: rows }, (_, row) =>
    cells.slice(row * PER_LINE, (row + 1) * PER_LINE).join('  '),
  );
}

function segmentLine(name: (typeof SEGMENT_NAMES)[number], system: SystemRegisters): string {
  const { selector, base, limit, unusable, ...attributes } = system[name];
  const flags = Object.entries(attributes).map(([key, value]) => `${key} ${value.toString(16)}`);
  const usable = unusable === 0n ? '' : ' unusable';
  return `${name.padEnd(NAME_WIDTH)} ${hex(selector, 4)} base ${hex(base, 16)} limit ${hex(limit, 8)} ${flags.join(' ')}${usable}`;
}

function codeLine(
  vcpu: Vcpu,
  memory: GuestMemory,
  registers: Registers,
  system: SystemRegisters,
): string {
  // In 64-bit mode the base of CS is ignored by the CPU, and 0 in what KVM returns.
  const rip = BigInt.asUintN(64, system.cs.base + registers.rip);
  const before = byteRun(vcpu, memory, rip - BigInt(CODE_BEFORE), CODE_BEFORE);
  const after = byteRun(vcpu, memory, rip, CODE_AFTER);
  return `${'code'.padEnd(NAME_WIDTH)} ${hexBytes(before)} > ${after.length > 0 ? hexBytes(after) : 'not mapped to RAM'}`;
}

/** Bytes from a linear address up to the first one that is not RAM. */
function byteRun(vcpu: Vcpu, memory: GuestMemory, linear: bigint, length: number): number[] {
  const bytes: number[] = [];
  for (let i = 0; i < length; i++) {
    const gpa = vcpu.translate(BigInt.asUintN(64, linear + BigInt(i)));
    const offset = gpa < 0 ? -1 : memory.offset(gpa, 1);
    if (offset < 0) break;
    bytes.push(memory.readU8(offset));
  }
  return bytes;
}
