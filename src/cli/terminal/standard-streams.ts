/**
 * Standard output and standard error: what happens when they are slow, full or gone, and how a
 * process ends only after its output is written.
 */

import type { Writable } from 'node:stream';
import { systemError } from '../../host/output-file.ts';
import { EXIT_USAGE, signalStatus } from '../exit-status.ts';

/** How long the last output may take once the user asked to leave. */
const HURRY_MS = 500;

let hurried = false;
/** Some standard output was lost. */
let outputFailed = false;

/** The user wants to leave: slow readers are not waited for. */
export function hurry(): void {
  hurried = true;
}

/** The handle of a stream that is a terminal or a pipe. */
interface StreamHandle {
  setBlocking?(blocking: boolean): number;
}

/**
 * Prepares the process's streams.
 * @param fail gets the error that makes it pointless to continue
 */
export function guardStandardStreams(fail: (error: unknown) => void): void {
  for (const stream of [process.stdout, process.stderr]) {
    // Node makes terminals blocking: a stopped one (Ctrl-S) would stop this thread, and with
    // it the devices that it serves, their guest, and every signal.
    if (stream.isTTY) (stream as { _handle?: StreamHandle })._handle?.setBlocking?.(false);
  }
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    leaveIfGone(process.stdout, error);
    if (outputFailed) return;
    outputFailed = true;
    fail(systemError(error, 'standard output') ?? error);
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    // There is nowhere to report that a message cannot be written.
    leaveIfGone(process.stderr, error);
  });
}

/** Ends as a signal would: the reader of the output has left, as in `nodevmm ... | head`. */
function leaveIfGone(stream: NodeJS.WriteStream, error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') process.exit(signalStatus('SIGPIPE'));
  // A terminal that was hung up.
  if (error.code === 'EIO' && stream.isTTY) process.exit(signalStatus('SIGHUP'));
}

/** Ends the process once its output is written; a pipe's reader may be slow. */
export function finish(status: number): void {
  process.exitCode = status;
  if (hurried) setTimeout(() => process.exit(status), HURRY_MS);
  whenWritten(process.stdout, () =>
    whenWritten(process.stderr, () => {
      // An error of the last write is reported first.
      setImmediate(() => process.exit(outputFailed ? status || EXIT_USAGE : status));
    }),
  );
}

function whenWritten(stream: Writable, then: () => void): void {
  if (stream.destroyed || stream.errored !== null) then();
  else stream.write('', () => then());
}
