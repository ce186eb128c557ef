/** The guest's files, in the style of node:fs/promises; each call is a process of the agent's (guests/agent/files.c). */
import { constants } from 'node:fs';
import { posix } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { NodeVmmError, UsageError } from '../host/errors.ts';
import { printable } from '../host/untrusted-text.ts';
import {
  checkOptions,
  choice,
  flag,
  integer,
  number,
  options,
  value,
} from '../options/option-schema.ts';
import type { CommandSpawner, GuestProcess } from './command.ts';
import { AGENT_PROGRAM, BYTES, SIGNAL } from './command-options.ts';
import { MAX_BUFFER as EXEC_MAX_BUFFER, exec } from './exec.ts';
import { pack, unpack } from './guest-copy.ts';
import { GuestSystemError, type SystemErrorDetails } from './guest-error.ts';
import { GuestReadStream, GuestWriteStream } from './guest-file-streams.ts';
import { checkedName, decodeEntries, type GuestDirent, GuestStats } from './guest-stats.ts';
import { protocolError } from './protocol.ts';

/** Options of what can be given up. */
export interface AbortOptions {
  /** It rejects with an AbortError when this aborts. */
  readonly signal?: AbortSignal;
}

/** How a file of the guest is read. */
export interface ReadFileOptions extends AbortOptions {
  /** Default none: a Buffer. */
  readonly encoding?: BufferEncoding;
  /** The most bytes that are kept; a longer file is refused with E_MAX_BUFFER. Default 64 MiB. */
  readonly maxBuffer?: number;
}

/** How a file of the guest is written. */
export interface WriteFileOptions extends AbortOptions {
  /** Of a string. Default utf8. */
  readonly encoding?: BufferEncoding;
  /** Of a file that does not exist yet, less the guest's umask. Default 0o666. */
  readonly mode?: number;
  /** As of fs.open. Default `w`. */
  readonly flag?: WriteFlag;
}

/** Which part of a file is read. */
export interface ReadStreamOptions extends AbortOptions {
  readonly encoding?: BufferEncoding;
  /** First byte. Default 0. */
  readonly start?: number;
  /** Last byte. Default that of the file. */
  readonly end?: number;
}

/** Where a file is written. */
export interface WriteStreamOptions extends AbortOptions {
  readonly mode?: number;
  readonly flags?: WriteFlag;
  /** First byte, with a flag that does not truncate, such as `r+`. Default 0. */
  readonly start?: number;
}

/** How a tree is copied from the guest. */
export interface CopyOutOptions extends AbortOptions {
  /** The most bytes, an entry as 4 KiB and its contents; more is refused with E_MAX_BYTES. Default 16 GiB. */
  readonly maxBytes?: number;
}

/** A change that `watch` saw. */
export interface GuestFileChange {
  /** `rename`: a name came or went. */
  readonly eventType: 'rename' | 'change';
  readonly filename: string;
}

const { O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_EXCL } = constants;
/** Flags of fs.open that write, as open(2) has them on x86-64, which both ends are. */
const WRITE_FLAGS = {
  w: O_WRONLY | O_CREAT | O_TRUNC,
  wx: O_WRONLY | O_CREAT | O_TRUNC | O_EXCL,
  'w+': O_RDWR | O_CREAT | O_TRUNC,
  'wx+': O_RDWR | O_CREAT | O_TRUNC | O_EXCL,
  a: O_WRONLY | O_CREAT | O_APPEND,
  ax: O_WRONLY | O_CREAT | O_APPEND | O_EXCL,
  'a+': O_RDWR | O_CREAT | O_APPEND,
  'ax+': O_RDWR | O_CREAT | O_APPEND | O_EXCL,
  'r+': O_RDWR,
} as const;
/** A flag of fs.open that writes. */
export type WriteFlag = keyof typeof WRITE_FLAGS;

/** Calls under way, which are fewer than the commands that an agent runs at a time. */
const CALLS_MAX = 64;
const MAX_BUFFER = 64 * 2 ** 20;
const MAX_BYTES = 16 * 2 ** 30;
/** More than any file has. */
const TO_END = String(2n ** 64n - 1n);
/** errno(3) ends here; a status beyond is not one. */
const ERRNO_MAX = 133;
/** The longest record of `watch`: a type, a name, a zero. */
const CHANGE_MAX = 4096;

const ENCODING = value<BufferEncoding>(
  (name) => typeof name === 'string' && Buffer.isEncoding(name),
  'the name of an encoding, such as utf8',
);
const MODE = integer(0, 0o7777);
const POSITION = integer(0, Number.MAX_SAFE_INTEGER);
const FLAG = choice(Object.keys(WRITE_FLAGS) as WriteFlag[]);

const READ_FILE = options<ReadFileOptions>(
  {},
  { signal: SIGNAL, encoding: ENCODING, maxBuffer: number((bytes) => bytes >= 0, BYTES) },
);
const WRITE_FILE = options<WriteFileOptions>(
  {},
  { signal: SIGNAL, encoding: ENCODING, mode: MODE, flag: FLAG },
);
const READ_STREAM = options<ReadStreamOptions>(
  {},
  { signal: SIGNAL, encoding: ENCODING, start: POSITION, end: POSITION },
);
const WRITE_STREAM = options<WriteStreamOptions>(
  {},
  { signal: SIGNAL, mode: MODE, flags: FLAG, start: POSITION },
);
const COPY_OUT = options<CopyOutOptions>(
  {},
  { signal: SIGNAL, maxBytes: number((bytes) => bytes >= 0, BYTES) },
);
const ABORT = options<AbortOptions>({}, { signal: SIGNAL });
const MKDIR = options<{ recursive?: boolean; mode?: number }>(
  {},
  { recursive: flag(), mode: MODE },
);
const RM = options<{ recursive?: boolean; force?: boolean }>(
  {},
  { recursive: flag(), force: flag() },
);
const READDIR = options<{ withFileTypes?: boolean }>({}, { withFileTypes: flag() });

/**
 * Files of the guest. Paths are the guest's, relative ones to the agent's directory, which is `/`. Errors of the
 * guest's kernel are GuestSystemErrors, as Node's: `code`, `errno`, `syscall`, `path`.
 */
export class GuestFiles {
  readonly #spawner: CommandSpawner;
  readonly #turns = new Turns(CALLS_MAX);

  constructor(spawner: CommandSpawner) {
    this.#spawner = spawner;
  }

  readFile(
    path: string,
    given?: ReadFileOptions & { readonly encoding?: undefined },
  ): Promise<Buffer>;
  readFile(
    path: string,
    given: BufferEncoding | (ReadFileOptions & { readonly encoding: BufferEncoding }),
  ): Promise<string>;
  /** The whole of a file. @throws UsageError (E_MAX_BUFFER) when it is longer than `maxBuffer` */
  async readFile(
    path: string,
    given: BufferEncoding | ReadFileOptions = {},
  ): Promise<Buffer | string> {
    const { encoding, maxBuffer, signal } = checkOptions(
      READ_FILE,
      withEncoding(given),
      'readFile',
    );
    const limits = { maxBuffer: maxBuffer ?? MAX_BUFFER, ...(signal && { signal }) };
    const bytes = await this.#run('open', ['read', path, '0', TO_END], { path }, limits);
    return encoding === undefined ? bytes : bytes.toString(encoding);
  }

  /** Writes a file, which replaces what it had, unless `flag` says otherwise. */
  async writeFile(
    path: string,
    data: string | Uint8Array,
    given: BufferEncoding | WriteFileOptions = {},
  ): Promise<void> {
    const { encoding, mode, flag, signal } = checkOptions(
      WRITE_FILE,
      withEncoding(given),
      'writeFile',
    );
    const input = typeof data === 'string' ? Buffer.from(data, encoding) : data;
    const request = writeRequest(path, flag, mode);
    await this.#run('open', request, { path }, { input, ...(signal && { signal }) });
  }

  /** Writes at the end of a file, which is made if there is none. */
  async appendFile(
    path: string,
    data: string | Uint8Array,
    given: BufferEncoding | WriteFileOptions = {},
  ): Promise<void> {
    await this.writeFile(path, data, { flag: 'a', ...withEncoding(given) });
  }

  readdir(path: string, given?: { readonly withFileTypes?: false }): Promise<string[]>;
  readdir(path: string, given: { readonly withFileTypes: true }): Promise<GuestDirent[]>;
  /** The entries of a folder. */
  async readdir(
    path: string,
    given: { readonly withFileTypes?: boolean } = {},
  ): Promise<string[] | GuestDirent[]> {
    const { withFileTypes = false } = checkOptions(READDIR, given, 'readdir');
    const entries = decodeEntries(await this.#run('scandir', ['readdir', path], { path }), path);
    return withFileTypes ? entries : entries.map(({ name }) => name);
  }

  async stat(path: string): Promise<GuestStats> {
    return new GuestStats(await this.#run('stat', ['stat', path], { path }));
  }

  /** As `stat`, of a symbolic link itself. */
  async lstat(path: string): Promise<GuestStats> {
    return new GuestStats(await this.#run('lstat', ['lstat', path], { path }));
  }

  /** Makes a folder. @returns with `recursive` the first folder that was made, if any */
  async mkdir(
    path: string,
    given: { readonly recursive?: boolean; readonly mode?: number } = {},
  ): Promise<string | undefined> {
    const { recursive = false, mode = 0o777 } = checkOptions(MKDIR, given, 'mkdir');
    try {
      await this.#run('mkdir', ['mkdir', path, `${mode}`], { path });
      return recursive ? path : undefined;
    } catch (error) {
      if (!recursive || !(error instanceof GuestSystemError)) throw error;
      if (error.code === 'EEXIST' && (await this.stat(path)).isDirectory()) return undefined;
      const parent = posix.dirname(path);
      if (error.code !== 'ENOENT' || parent === path) throw error;
      const first = await this.mkdir(parent, { recursive, mode });
      const own = await this.mkdir(path, { recursive, mode });
      return first ?? own;
    }
  }

  /** Removes a file, or with `recursive` a folder with all that is in it. */
  async rm(
    path: string,
    given: { readonly recursive?: boolean; readonly force?: boolean } = {},
  ): Promise<void> {
    const { recursive = false, force = false } = checkOptions(RM, given, 'rm');
    try {
      await this.#run('rm', [recursive ? 'remove' : 'unlink', path], { path });
    } catch (error) {
      if (!force || !hasCode(error, 'ENOENT')) throw error;
    }
  }

  async rename(path: string, dest: string): Promise<void> {
    await this.#run('rename', ['rename', path, dest], { path, dest });
  }

  /** Makes a symbolic link at `path`. */
  async symlink(target: string, path: string): Promise<void> {
    await this.#run('symlink', ['symlink', path, target], { path: target, dest: path });
  }

  async readlink(path: string): Promise<string> {
    return (await this.#run('readlink', ['readlink', path], { path })).toString();
  }

  /** @param mode at most 0o7777 */
  async chmod(path: string, mode: number): Promise<void> {
    await this.#run('chmod', ['chmod', path, `${checkOptions(MODE, mode, 'mode')}`], { path });
  }

  /** @param mode of fs.constants: F_OK, R_OK, W_OK, X_OK */
  async access(path: string, mode: number = constants.F_OK): Promise<void> {
    const bits = checkOptions(integer(0, 7), mode, 'mode');
    await this.#run('access', ['access', path, `${bits}`], { path });
  }

  /** Whether there is a file; false also when the guest does not let it be seen. */
  async exists(path: string): Promise<boolean> {
    try {
      await this.access(path);
      return true;
    } catch (error) {
      if (error instanceof GuestSystemError) return false;
      throw error;
    }
  }

  createReadStream(path: string, given: BufferEncoding | ReadStreamOptions = {}): GuestReadStream {
    const {
      encoding,
      signal,
      start = 0,
      end,
    } = checkOptions(READ_STREAM, withEncoding(given), 'createReadStream');
    const length = end === undefined ? TO_END : `${Math.max(0, end - start + 1)}`;
    const helper = this.#start(['read', path, `${start}`, length], signal);
    const stream = new GuestReadStream(helper, failureOf(helper, 'open', { path }));
    return encoding === undefined ? stream : stream.setEncoding(encoding);
  }

  createWriteStream(path: string, given: WriteStreamOptions = {}): GuestWriteStream {
    const { signal, flags, mode, start } = checkOptions(WRITE_STREAM, given, 'createWriteStream');
    const helper = this.#start(writeRequest(path, flags, mode, start), signal);
    return new GuestWriteStream(helper, failureOf(helper, 'open', { path }));
  }

  /**
   * Copies a file, or a folder with all that is in it, from the host. Modes and symbolic links are kept; sockets,
   * pipes and devices are left out. Existing files are overwritten, folders joined.
   */
  async copyIn(hostPath: string, guestPath: string, given: AbortOptions = {}): Promise<void> {
    const { signal } = checkOptions(ABORT, given, 'copyIn');
    const helper = this.#start(['unpack', guestPath], signal);
    const failure = failureOf(helper, 'copyIn', { path: guestPath });
    await pipeline(pack(hostPath), new GuestWriteStream(helper, failure));
  }

  /**
   * Copies to the host, as `copyIn`; without set-user-ID, set-group-ID and sticky bits. Nothing is written outside
   * `hostPath`. The guest decides where symbolic links point: do not follow them.
   * @throws PeerError (E_MAX_BYTES) when the guest sends more than `maxBytes`
   */
  async copyOut(guestPath: string, hostPath: string, given: CopyOutOptions = {}): Promise<void> {
    const { signal, maxBytes = MAX_BYTES } = checkOptions(COPY_OUT, given, 'copyOut');
    const helper = this.#start(['pack', guestPath], signal);
    const failure = failureOf(helper, 'copyOut', { path: guestPath });
    try {
      const stream = helper.stdout as AsyncIterable<Buffer>;
      const complete = await unpack(stream, hostPath, maxBytes);
      const error = failure((await helper.exit).exitCode);
      if (error !== undefined || !complete) throw error ?? protocolError('a copied file');
    } finally {
      helper.kill('SIGKILL');
      helper.stdout.destroy();
    }
  }

  /** Reports changes of a file, or of the entries of a folder, until the loop ends or `signal` aborts. */
  async *watch(path: string, given: AbortOptions = {}): AsyncGenerator<GuestFileChange, void> {
    const { signal } = checkOptions(ABORT, given, 'watch');
    const helper = this.#start(['watch', path], signal);
    const failure = failureOf(helper, 'watch', { path });
    try {
      let rest = Buffer.alloc(0);
      for await (const chunk of helper.stdout as AsyncIterable<Buffer>) {
        rest = Buffer.concat([rest, chunk]);
        for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
          const change = changeOf(rest.toString('utf8', 0, end), path);
          rest = rest.subarray(end + 1);
          if (change !== undefined) yield change;
        }
        if (rest.length > CHANGE_MAX) throw protocolError('a change of a file');
      }
      const error = failure((await helper.exit).exitCode);
      if (error !== undefined) throw error;
    } finally {
      helper.kill('SIGKILL');
      helper.stdout.destroy();
    }
  }

  #start(request: readonly string[], signal: AbortSignal | undefined): GuestProcess {
    return this.#spawner.spawn([AGENT_PROGRAM, 'files', ...request], { ...(signal && { signal }) });
  }

  async #run(
    call: string,
    request: readonly string[],
    details: SystemErrorDetails,
    how: { input?: Uint8Array; signal?: AbortSignal; maxBuffer?: number } = {},
  ): Promise<Buffer> {
    const command = [AGENT_PROGRAM, 'files', ...request];
    await this.#turns.take();
    try {
      const { stdout, exitCode } = await exec(this.#spawner, command, how);
      const error = failureFor(exitCode, call, details);
      if (error !== undefined) throw error;
      return stdout;
    } catch (error) {
      throw hasCode(error, 'E_MAX_BUFFER') ? tooLong(details, how.maxBuffer) : error;
    } finally {
      this.#turns.give();
    }
  }
}

/** Lets so many at a time, in order. */
class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  async take(): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}

function withEncoding<T extends object>(
  given: BufferEncoding | T,
): T | { encoding: BufferEncoding } {
  return typeof given === 'string' ? { encoding: given } : given;
}

function writeRequest(path: string, flag: WriteFlag = 'w', mode = 0o666, start = 0): string[] {
  return ['write', path, `${WRITE_FLAGS[flag]}`, `${mode}`, `${start}`];
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof NodeVmmError && error.code === code;
}

function failureFor(
  status: number,
  call: string,
  details: SystemErrorDetails,
): NodeVmmError | undefined {
  if (status === 0) return undefined;
  return status <= ERRNO_MAX
    ? new GuestSystemError(status, call, details)
    : protocolError(`${call}: status ${status}`);
}

/** The error of a helper that was started; it may say which path it is about. */
function failureOf(
  helper: GuestProcess,
  call: string,
  details: SystemErrorDetails,
): (status: number) => NodeVmmError | undefined {
  let about = '';
  helper.stderr.on('data', (chunk: Buffer) => {
    about = (about + chunk.toString()).slice(0, CHANGE_MAX);
  });
  return (status) =>
    failureFor(
      status,
      call,
      about === '' ? details : { ...details, path: printable(about).replaceAll('\n', '\\n') },
    );
}

function tooLong({ path }: SystemErrorDetails, limit: number | undefined): UsageError {
  return new UsageError(
    'E_MAX_BUFFER',
    `${path} in the guest has more than ${limit ?? EXEC_MAX_BUFFER} bytes`,
    limit === undefined ? undefined : 'raise maxBuffer, or use createReadStream',
  );
}

/** @returns undefined for the record that says that it watches */
function changeOf(text: string, path: string): GuestFileChange | undefined {
  const type = text[0];
  const name = text.slice(1);
  if (type === 'w' && name === '') return undefined;
  if (type !== 'r' && type !== 'c') throw protocolError('a change of a file');
  return {
    eventType: type === 'r' ? 'rename' : 'change',
    filename: name === '' ? posix.basename(path) : checkedName(name),
  };
}
