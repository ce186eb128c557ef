/** Options of commands, and the requests that are made from them. */
import { constants as os } from 'node:os';
import { NodeVmmError, UsageError } from '../host/errors.ts';
import {
  checkOptions,
  choice,
  integer,
  number,
  type OptionSchema,
  options,
  strings,
  text,
  value,
} from '../options/option-schema.ts';
import type { ExecRequest } from './protocol.ts';

/**
 * What runs: a string by a shell, an array without one, as program (looked up in the guest's PATH) and
 * arguments.
 */
export type CommandLine = string | readonly string[];

/** The size of a terminal, in characters. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** How a command is run; as options of node:child_process where they have the same names. */
export interface SpawnOptions {
  /** Added to the environment that the agent has, and to what `user` sets. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default: the agent's, which is `/`. */
  readonly cwd?: string;
  /**
   * Runs as this user of the guest's /etc/passwd: IDs, the groups of /etc/group, HOME, USER, and LOGNAME.
   * Default: the agent's user, which is root. An unknown one is a UsageError, E_USER.
   */
  readonly user?: string;
  /** The shell that a string is passed to, with `-c`. Default true: /bin/sh. An array takes none. */
  readonly shell?: boolean | string;
  /** Give it a terminal of this size: stdout carries all of its output, stderr none. */
  readonly tty?: TerminalSize;
  /** Kills the command when it aborts; it then rejects with an AbortError (ABORT_ERR), as Node's do. */
  readonly signal?: AbortSignal;
  /**
   * Milliseconds from the call on, with the wait for the agent; then the command is killed, and rejects with
   * E_TIMEOUT. Default 0: none.
   */
  readonly timeout?: number;
  /** What `signal` and `timeout` kill its process group by. Default SIGKILL. */
  readonly killSignal?: NodeJS.Signals;
}

/** What `exec` takes beyond the options of `spawn`. */
export interface ExecOptions extends SpawnOptions {
  /** Given to the command as its standard input. Default none. */
  readonly input?: string | Uint8Array;
  /**
   * The most bytes of standard output, and of standard error, that are kept; a command that writes
   * more is killed, and `exec` rejects with E_MAX_BUFFER. Default 16 MiB; Infinity for no limit.
   */
  readonly maxBuffer?: number;
}

const MAX_UINT16 = 0xffff;
/** The longest that a timer of Node's waits. */
const MAX_TIMEOUT = 2 ** 31 - 1;

/** The option by which a call is aborted. */
export const SIGNAL: OptionSchema<AbortSignal> = value<AbortSignal>(
  (signal) => signal instanceof AbortSignal,
  'an AbortSignal',
);
/** An option that is a limit. */
export const BYTES = { expected: 'a number of bytes' };

const SPAWN = {
  env: strings(),
  cwd: text(),
  user: text({}, (name) => !/[:\n]/.test(name)),
  shell: value<boolean | string>(
    (shell) => typeof shell === 'boolean' || (typeof shell === 'string' && shell !== ''),
    'true, false or the path of a shell',
  ),
  tty: options<TerminalSize>({ columns: integer(0, MAX_UINT16), rows: integer(0, MAX_UINT16) }, {}),
  signal: SIGNAL,
  timeout: integer(0, MAX_TIMEOUT),
  killSignal: choice(Object.keys(os.signals) as NodeJS.Signals[], {
    expected: 'the name of a signal, such as SIGTERM',
  }),
};

const SPAWN_OPTIONS = options<SpawnOptions>({}, SPAWN);
const EXEC_OPTIONS = options<ExecOptions>(
  {},
  {
    ...SPAWN,
    input: value<string | Uint8Array>(
      (input) => typeof input === 'string' || input instanceof Uint8Array,
      'a string or a Uint8Array',
    ),
    maxBuffer: number((bytes) => bytes >= 0, { ...BYTES, code: 'E_MAX_BUFFER' }),
  },
);

/** A copy that keeps the rules. @throws UsageError */
export function checkExecOptions(given: ExecOptions): ExecOptions {
  return checkOptions(EXEC_OPTIONS, given, 'exec');
}

/** The agent's own executable, as what it runs finds it: the child of the agent before its exec(2). */
export const AGENT_PROGRAM = '/proc/self/exe';

/** A command that is ready to be sent. */
export interface PlannedCommand extends Omit<SpawnOptions, 'tty'> {
  /** For messages. */
  readonly name: string;
  readonly request: ExecRequest;
}

const NAME_MAX = 60;

/** Makes a command of what a program asked for. @throws UsageError */
export function planCommand(command: CommandLine, given: SpawnOptions): PlannedCommand {
  const { env = {}, cwd = '', tty, ...others } = checkOptions(SPAWN_OPTIONS, given, 'spawn');
  const argv = argvOf(command, others.shell);
  const name = nameOf(command);
  const { user } = others;
  const request = {
    // The agent's child recognizes it, and changes its user (guests/agent/user.c).
    argv: user === undefined ? argv : [AGENT_PROGRAM, 'as', user, ...argv],
    env: Object.entries(env).map(([key, value]) => `${key}=${value}`),
    cwd,
    ...(tty === undefined ? {} : { tty }),
  };
  if ([...request.argv, ...request.env, cwd].some((text) => text.includes('\0'))) {
    throw new UsageError(
      'E_ARGV',
      `cannot run ${name}: an argument contains a NUL byte`,
      'remove it',
    );
  }
  if (argv.length > MAX_UINT16 - 3 || request.env.length > MAX_UINT16) {
    throw new UsageError(
      'E2BIG',
      `cannot run ${name}: it has more than ${MAX_UINT16 - 3} arguments or variables`,
      'pass them by input or a file',
    );
  }
  return { ...others, name, request };
}

function argvOf(command: unknown, shell: boolean | string | undefined): readonly string[] {
  if (typeof command === 'string') {
    if (command === '') throw new UsageError('E_ARGV', 'cannot run an empty command');
    if (shell === false) {
      throw new UsageError(
        'E_ARGV',
        "a command without a shell is an array, such as ['ls', '-l'], not a string",
      );
    }
    return [typeof shell === 'string' ? shell : '/bin/sh', '-c', command];
  }
  if (!Array.isArray(command) || !command.every((word) => typeof word === 'string')) {
    throw new UsageError('E_ARGV', 'a command is a string or an array of strings');
  }
  if (shell !== undefined && shell !== false) {
    throw new UsageError(
      'E_ARGV',
      'an array is run without a shell',
      'pass the command as a string, or leave out shell',
    );
  }
  if (command.length === 0 || command[0] === '') {
    throw new UsageError('E_ARGV', 'cannot run an empty command');
  }
  return command;
}

/** Its program, or the beginning of what a shell runs, for messages. */
export function nameOf(command: CommandLine): string {
  if (typeof command !== 'string') return command[0] ?? '';
  return JSON.stringify(command.length > NAME_MAX ? `${command.slice(0, NAME_MAX)}...` : command);
}

/** An AbortSignal aborted: as Node's own error, which it does not export. */
export class AbortError extends NodeVmmError {
  /** @param reason the signal's, which becomes the cause */
  constructor(reason: unknown) {
    super('ABORT_ERR', 'The operation was aborted', undefined, { cause: reason });
  }
}
