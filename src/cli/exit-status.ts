/**
 * Exit statuses of `nodevmm`, distinct from those that commands in a guest commonly have. A run that
 * was stopped by a signal ends with 128 + the signal's number.
 */
import { constants as os } from 'node:os';
import type { Command } from 'commander';
import type { MachineExit } from '../machine/options.ts';

/** The exit status for a signal. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + os.signals[signal];
}

/** The guest powered off, or the user left with Ctrl-A x or stopped it with `nodevmm vm stop`. */
export const EXIT_OK = 0;
/** Bad usage, or the host cannot do what was requested. */
export const EXIT_USAGE = 2;
/** The guest's kernel panicked. */
export const EXIT_PANIC = 200;
/** A vCPU could not continue: an exception while it handled exceptions. */
export const EXIT_TRIPLE_FAULT = 201;
/** KVM could not run a vCPU (KVM_EXIT_INTERNAL_ERROR or KVM_EXIT_FAIL_ENTRY). */
export const EXIT_INTERNAL_ERROR = 202;
/** The guest or its agent ended before the command after `--` did. */
export const EXIT_COMMAND_LOST = 203;
/**
 * The machine, or the lab, was stopped on request before the command had ended. Nothing failed, but
 * the command did not succeed either: the same status as after SIGTERM, the other way to stop it.
 */
export const EXIT_COMMAND_STOPPED: number = signalStatus('SIGTERM');
/** A bug in nodevmm. */
export const EXIT_BUG = 204;

/** The guest did not restart its watchdog in time, and that ends the run (`--watchdog exit`). */
export const EXIT_WATCHDOG = 205;

/** Adds a command to the program. @param finish gets the exit status */
export type RegisterCommand = (program: Command, finish: (status: number) => void) => void;

const BY_REASON: Readonly<Record<MachineExit['reason'], number>> = {
  'power-off': EXIT_OK,
  reboot: EXIT_OK,
  stopped: EXIT_OK,
  panic: EXIT_PANIC,
  watchdog: EXIT_WATCHDOG,
  'triple-fault': EXIT_TRIPLE_FAULT,
  'internal-error': EXIT_INTERNAL_ERROR,
};

/** The exit status that shows how a machine ended. */
export function statusOf(reason: MachineExit['reason']): number {
  return BY_REASON[reason];
}

/** Their descriptions in `--help`. */
export const EXIT_STATUS_HELP = `
Exit status:
  0       the guest powered off, was left with Ctrl-A x, or was ended with vm stop or vm shutdown
  ${EXIT_USAGE}       bad usage, or the host cannot do what was asked
  ${EXIT_COMMAND_STOPPED}     vm stop, vm shutdown or lab --stop came before the end of the command
  ${EXIT_PANIC}     the guest's kernel panicked
  ${EXIT_TRIPLE_FAULT}     triple fault
  ${EXIT_INTERNAL_ERROR}     KVM internal error
  ${EXIT_COMMAND_LOST}     the guest, or its agent, ended before the command after -- did
  ${EXIT_WATCHDOG}     the guest did not restart its watchdog in time (--watchdog exit)
  ${EXIT_BUG}     a bug in nodevmm (NODEVMM_DEBUG=1 shows where)
  128+N   stopped by signal N
  With -- COMMAND: the command's own status.`;
