/** How an error is reported to the user: one line, and its exit status. */
import { CommanderError } from 'commander';
import { HostError, InternalError, messageOf, NodeVmmError, PeerError } from '../../host/errors.ts';
import { systemError } from '../../host/output-file.ts';
import { EXIT_BUG, EXIT_COMMAND_LOST, EXIT_COMMAND_STOPPED, EXIT_USAGE } from '../exit-status.ts';
import { MESSAGES } from './messages.ts';

const debugging = (): boolean => process.env.NODEVMM_DEBUG === '1';

/**
 * Prints an error on stderr, with a stack trace only when NODEVMM_DEBUG=1.
 * @returns the exit status
 */
export function reportError(error: unknown): number {
  // commander has printed its own line, for --help and --version too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  const known =
    error instanceof NodeVmmError
      ? error
      : (systemError(error) ?? new InternalError(messageOf(error), { cause: error }));
  const text = known.message.replace(/\s*\n\s*/g, ' ');
  MESSAGES.say(text);
  if (debugging()) MESSAGES.show(stackOf(error));
  if (known instanceof InternalError) return EXIT_BUG;
  if (known.code === 'E_LAB_STOPPED') return EXIT_COMMAND_STOPPED;
  return known instanceof PeerError && !(known instanceof HostError)
    ? EXIT_COMMAND_LOST
    : EXIT_USAGE;
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const cause = error.cause === undefined ? '' : `\ncaused by: ${stackOf(error.cause)}`;
  return `${error.stack ?? ''}${cause}`;
}
