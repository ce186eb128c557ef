/** Shell scripts in guests. */
import type { VirtualMachine } from '../../src/index.ts';

/**
 * Runs a script in a guest, up to the first command that fails.
 * @returns what it printed, without the newline at the end
 * @throws Error with the script and what it said, when its status is not 0
 */
export async function guestShell(vm: VirtualMachine, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await vm.exec(['sh', '-ec', script]);
  if (exitCode === 0) return stdout.toString().trimEnd();
  throw new Error(`status ${exitCode} from: ${script}\n${stdout.toString()}${stderr.toString()}`);
}

/** A shell function `disk SERIAL` that waits for a disk and prints its name, e.g. `vda`. */
export const DISK_BY_SERIAL = `disk() {
  while :; do
    for s in /sys/block/vd*/serial; do
      [ "$(cat $s 2>/dev/null)" = "$1" ] || continue
      s=\${s#/sys/block/}
      [ -b /dev/\${s%/serial} ] && echo \${s%/serial} && return
    done
    sleep 0.1
  done
}
`;
