/** DPDK's testpmd: a driver or a backend of vhost-user with one thread that forwards, on its own CPU. */
import { findProgram } from '../../src/guest/programs.ts';
import { Child } from './child.ts';

export const TESTPMD = 'dpdk-testpmd';
const MEMORY_MIB = 256;
const ANSWER_MS = 20_000;

/** What this host lacks for it. */
export function lacksTestpmd(): string | undefined {
  const found = findProgram(TESTPMD);
  return found === undefined ? `no ${TESTPMD}; apt-get install dpdk-dev` : undefined;
}

/** The configuration of one instance. */
export interface TestpmdOptions {
  /** Distinguishes it from the other instances. */
  readonly prefix: string;
  /** The CPU that it forwards on. */
  readonly cpu: number;
  /** The CPU of its other threads, which are nearly idle. */
  readonly mainCpu: number;
  readonly vdev: string;
  readonly mode: 'txonly' | 'rxonly' | 'flowgen' | 'io';
  /** Bytes of the frames that it generates. */
  readonly frame: number;
}

/** Its command line. */
export function testpmdCommand(options: TestpmdOptions): string[] {
  const { prefix, cpu, mainCpu, vdev, mode, frame } = options;
  return [
    ...['stdbuf', '-oL', TESTPMD, `--lcores=0@${mainCpu},1@${cpu}`, '--no-huge'],
    ...['-m', String(MEMORY_MIB), '--no-pci', '--no-telemetry', `--file-prefix=${prefix}`],
    ...[`--vdev=${vdev}`, '--', '-i', '--auto-start', `--forward-mode=${mode}`],
    ...[`--txpkts=${frame}`, '--no-mlockall'],
    ...['--txd=1024', '--rxd=1024', '--total-num-mbufs=8192'],
  ];
}

/** Packets per second, as its port counts them. */
export interface PortRates {
  readonly received: number;
  readonly transmitted: number;
}

const RATES = /Rx-pps: +(\d+)[\s\S]*?Tx-pps: +(\d+)[\s\S]*?\n *#{20,}/;

/** Parses the output of `show port stats`; undefined while that is incomplete. */
export function parsePortRates(text: string): PortRates | undefined {
  const [, received, transmitted] = RATES.exec(text) ?? [];
  if (received === undefined || transmitted === undefined) return undefined;
  return { received: Number(received), transmitted: Number(transmitted) };
}

/** A running instance that takes commands. */
export class Testpmd extends Child {
  #said = '';
  #heard: (() => void) | undefined;

  constructor(options: TestpmdOptions) {
    super(testpmdCommand(options), { input: true });
    this.process.stdout?.on('data', (chunk: Buffer) => {
      this.#said += chunk.toString('latin1');
      this.#heard?.();
    });
    // Its end is reported elsewhere.
    this.process.stdin?.on('error', () => {});
  }

  /** Since they were last requested: it divides by the time between two requests. */
  async rates(): Promise<PortRates> {
    this.#said = '';
    this.process.stdin?.write('show port stats 0\n');
    const answer = new Promise<PortRates>((resolve) => {
      this.#heard = () => {
        const rates = parsePortRates(this.#said);
        if (rates !== undefined) resolve(rates);
      };
    });
    return await this.during(TESTPMD, answer, ANSWER_MS);
  }

  /** It ignores signals while it waits for a command. */
  override async [Symbol.asyncDispose](): Promise<void> {
    this.process.stdin?.end('quit\n');
    await super[Symbol.asyncDispose]();
  }
}
