/** Taps and addresses for guests that run side by side: each has its own subnet. */

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { run } from '../../src/guest/programs.ts';
import { CleanupStack } from '../../src/host/cleanup-stack.ts';
import { onProcessExit } from '../../src/host/threads.ts';
import { Child } from '../subjects/child.ts';

const REMEDY = 'it takes CAP_NET_ADMIN and /dev/net/tun';

/** A tap, its subnet, and the addresses at both ends. */
export interface TapNetwork {
  readonly tap: string;
  readonly hostAddress: string;
  readonly guestAddress: string;
}

/** Taps that are gone at the end. */
export class Taps implements Disposable {
  readonly #removals = new CleanupStack();

  /** Makes one. @param index distinguishes it from the others, 0 to 254 */
  async add(index: number): Promise<TapNetwork> {
    const network = {
      tap: `nvmbench${index}`,
      hostAddress: `10.199.${index}.1`,
      guestAddress: `10.199.${index}.2`,
    };
    await ip('tuntap', 'add', 'dev', network.tap, 'mode', 'tap');
    const undo = (): void => remove(network.tap);
    const forget = onProcessExit(undo);
    this.#removals.defer(() => {
      forget();
      undo();
    });
    await ip('address', 'add', `${network.hostAddress}/24`, 'dev', network.tap);
    await ip('link', 'set', network.tap, 'up');
    return network;
  }

  [Symbol.dispose](): void {
    this.#removals.dispose();
  }
}

function remove(tap: string): void {
  try {
    execFileSync('ip', ['link', 'delete', tap], { stdio: 'ignore' });
  } catch {
    // Gone already.
  }
}

async function ip(...args: string[]): Promise<void> {
  await run(['ip', ...args], REMEDY);
}

/** A listening iperf3 server, replaced after a run that failed: the old one may stay busy forever. */
export class IperfServer implements AsyncDisposable {
  #child: Child | undefined;

  /** Makes sure that a server listens. */
  async listen(): Promise<void> {
    if (this.#child !== undefined) return;
    const child = new Child(['iperf3', '-s', '--forceflush']);
    this.#child = child;
    await this.#unlessItFails(
      child.during('iperf3 -s', once(child.process.stdout ?? child.process, 'data')),
    );
  }

  /** Waits for a run of a client. @throws Error as the run does, or when the server ends */
  async during<T>(run: Promise<T>): Promise<T> {
    if (this.#child === undefined) throw new Error('no iperf3 server listens');
    return await this.#unlessItFails(this.#child.during('iperf3', run));
  }

  async #unlessItFails<T>(done: Promise<T>): Promise<T> {
    try {
      return await done;
    } catch (error) {
      await this[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    await child?.[Symbol.asyncDispose]();
  }
}
