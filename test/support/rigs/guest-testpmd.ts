/** DPDK's testpmd as a driver in a guest's userland, asked by its prompt. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { USR } from '../../../bench/subjects/userland.ts';
import type { GuestProcess, VirtualMachine } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { guestShell } from './guest.ts';
import { programPath } from './host.ts';

/** A machine for it. */
export const TESTPMD_MACHINE = { memory: 1024 * MiB, cpus: 2, fileSystems: [USR] };

/** Gives a PCI function back to Linux. */
const giveBack = (address: string): string => `
  cd /sys/bus/pci/devices/${address}
  echo ${address} >driver/unbind
  echo >driver_override
  echo ${address} >/sys/bus/pci/drivers_probe
  test "$(basename $(readlink driver))" = virtio-pci`;

/** The PCI addresses of a guest's network interfaces. */
export async function addressesIn(vm: VirtualMachine, count: number): Promise<string[]> {
  const out = await guestShell(
    vm,
    `for i in $(seq 0 ${count - 1}); do basename $(readlink -f /sys/class/net/eth$i/device/..); done`,
  );
  return out.split('\n');
}

/** Gives an interface back to Linux, with the address 10.0.INDEX.3. @returns its name */
export const giveToLinux = (address: string, index: number): string => `${giveBack(address)}
  until ls virtio*/net >/dev/null 2>&1; do sleep 0.1; done
  name=$(ls virtio*/net)
  ip address add 10.0.${index}.3/24 dev $name
  ip link set $name up
  echo $name`;

/** One instance, in /dpdk, which answers pings. */
export class GuestTestpmd {
  readonly #process: GuestProcess;
  #output = '';

  /**
   * @param device options of the device, as DPDK has them; may be empty
   * @param eal more options of its environment
   * @param args more options of testpmd itself
   */
  constructor(
    vm: VirtualMachine,
    address: string,
    device = '',
    args: readonly string[] = [],
    eal: readonly string[] = [],
  ) {
    const allowed = ['-a', [address, device].filter(Boolean).join(',')];
    const environment = ['-l', '0,1', '--no-telemetry', ...allowed, ...eal];
    const testpmd = ['--interactive', '--forward-mode=icmpecho', '--total-num-mbufs=4096', ...args];
    // On a terminal it prints line by line.
    const tty = { columns: 200, rows: 50 };
    const program = programPath('dpdk-testpmd');
    this.#process = vm.spawn(['chroot', '/dpdk', program, ...environment, '--', ...testpmd], {
      tty,
    });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.on('data', (bytes: Buffer) => {
        this.#output += bytes;
      });
    }
  }

  /**
   * Sends a command and returns what was printed since, once `answer` is in it: a prompt may be
   * that of the command before, which does no harm to one that has no answer. '' sends nothing.
   */
  async ask(command: string, answer = /testpmd> $/): Promise<string> {
    const from = this.#output.length;
    if (command !== '') this.#process.stdin.write(`${command}\n`);
    const ended = this.#process.exit.then(() => true);
    while (!answer.test(this.#output.slice(from))) {
      const next = once(this.#process.stdout, 'data').then(() => false);
      if (await Promise.race([ended, next])) throw new Error(`testpmd ended:\n${this.#output}`);
    }
    return this.#output.slice(from);
  }

  async quit(): Promise<number> {
    this.#process.stdin.write('quit\n');
    return (await this.#process.exit).exitCode;
  }
}

/** Whether something answers pings from this host: what ping(8) says. */
export async function pingFromHost(address: string): Promise<string> {
  const args = ['ping', '-c', '3', '-W', '20', address];
  const { stdout } = await promisify(execFile)(programPath('busybox'), args);
  return stdout;
}
