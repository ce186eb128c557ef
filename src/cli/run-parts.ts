/** What `run` and `start` are put together from in the real program. */
import { buildGuest } from '../guest/guests.ts';
import { UsageError } from '../host/errors.ts';
import type { RunParts } from './run.ts';

export const RUN_PARTS: RunParts = {
  buildGuest,
  async createMachine() {
    throw new UsageError('E_MACHINE', 'machines are not assembled yet');
  },
  async whyNoKvm() {
    return undefined;
  },
  async runInLab() {
    throw new UsageError('E_LAB', 'there is no lab yet');
  },
};
