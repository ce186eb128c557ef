/** The guest's own counters around a command: CPU time, interrupts and kicks of its interface. */
import { INTERFACE, run } from '../subjects/subject.ts';
import { type Booted, guestOf } from './group.ts';

/** Differences over a command's run. */
export interface GuestCounts {
  /** Seconds that the vCPU was not idle, by the guest kernel's accounting. */
  readonly cpuSeconds: number;
  /** Of the interface. */
  readonly interrupts: number;
  /** Queue notifications by virtio_net; undefined for another driver. */
  readonly kicks?: number;
  /** In and out, as the interface counts them: with segmentation offload, of up to 64 KiB. */
  readonly packets: number;
  readonly bytes: number;
}

/** The command's output is kept until it has ended: each line over the console port costs exits. */
const SCRIPT = `net=/sys/class/net/${INTERFACE}
counters() {
  echo "@counters"
  # One process: on an emulated host each takes its time.
  grep '' /proc/stat /proc/interrupts $net/statistics/rx_packets $net/statistics/tx_packets \\
    $net/statistics/rx_bytes $net/statistics/tx_bytes
  ethtool -S ${INTERFACE} 2>/dev/null
}
device=$(readlink -f $net/device)
echo "device: \${device##*/}"
counters
"$@" >/tmp/bench-output 2>&1
status=$?
counters
echo "@output"
cat /tmp/bench-output
exit $status`;

/** Runs a command in a member's guest, with a timeout. @returns its output, and the guest's counters for that time */
export async function runCounted(
  member: Booted,
  argv: readonly string[],
  timeoutMs: number,
): Promise<{ readonly output: string; readonly counts: GuestCounts }> {
  const text = await run(guestOf(member), ['sh', '-c', SCRIPT, 'sh', ...argv], timeoutMs);
  return parseCounted(text);
}

/** Parses the script's output. @throws Error when it is invalid */
export function parseCounted(text: string): { output: string; counts: GuestCounts } {
  const [head, before, after] = text.split('@counters\n');
  const end = after?.indexOf('@output\n') ?? -1;
  if (head === undefined || before === undefined || after === undefined || end < 0) {
    throw new Error(`the guest's counters are not understood: ${text.slice(0, 200)}`);
  }
  const device = /^device: (.+)$/m.exec(head)?.[1] ?? '';
  const first = parseCounters(before, device);
  const last = parseCounters(after.slice(0, end), device);
  const kicks =
    first.kicks === undefined || last.kicks === undefined ? undefined : last.kicks - first.kicks;
  return {
    output: after.slice(end + '@output\n'.length),
    counts: {
      cpuSeconds: last.cpuSeconds - first.cpuSeconds,
      interrupts: last.interrupts - first.interrupts,
      packets: last.packets - first.packets,
      bytes: last.bytes - first.bytes,
      ...(kicks === undefined ? {} : { kicks }),
    },
  };
}

/** USER_HZ. */
const TICKS_PER_SECOND = 100;
/** Columns of /proc/stat that are the vCPU's own work: user, nice, system, irq, softirq. */
const BUSY: readonly number[] = [0, 1, 2, 5, 6];

function parseCounters(text: string, device: string): GuestCounts {
  const columns = (/^\/proc\/stat:cpu +(.*)$/m.exec(text)?.[1] ?? '').split(' ').map(Number);
  const ticks = BUSY.reduce((sum, column) => sum + (columns[column] ?? 0), 0);
  const value = (name: string): number =>
    Number(new RegExp(`/statistics/${name}:(\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  const kicks = [...text.matchAll(/^ *[rt]x\d+_kicks: (\d+)$/gm)].map((match) => Number(match[1]));
  return {
    cpuSeconds: ticks / TICKS_PER_SECOND,
    interrupts: interruptsOf(text, device),
    packets: value('rx_packets') + value('tx_packets'),
    bytes: value('rx_bytes') + value('tx_bytes'),
    ...(kicks.length === 0 ? {} : { kicks: kicks.reduce((sum, count) => sum + count, 0) }),
  };
}

/**
 * Of /proc/interrupts, as grep shows it, the lines of an interface or its device: `NUMBER: COUNT... CHIP ... ACTIONS`,
 * where the action is `virtio0-input.0` with MSI-X, else the device's or the interface's name.
 */
function interruptsOf(text: string, device: string): number {
  let sum = 0;
  for (const [, counts = '', rest = ''] of text.matchAll(
    /^\/proc\/interrupts: *\d+:((?: +\d+)+)(.*)$/gm,
  )) {
    const actions = rest.split(/[ ,]+/);
    const own = actions.some(
      (action) =>
        action === INTERFACE ||
        (device !== '' && (action === device || action.startsWith(`${device}-`))),
    );
    if (own) for (const count of counts.trim().split(/ +/)) sum += Number(count);
  }
  return sum;
}
