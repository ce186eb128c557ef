/** The configuration of the emulated Intel machine: Bochs's, which has VMX with nested paging. */

/**
 * Instructions in a second of the machine's time. Idle time passes for nothing, so what waits
 * ends sooner with a low rate; computing then looks slow.
 */
const INSTRUCTIONS_PER_SECOND = 100_000_000;

/**
 * Half of the kernel's start: self-tests of its cryptography, the certificates for its modules
 * (which then taint it) and tables for tracing.
 */
const LEFT_OUT = [
  'jent_mod_init',
  'crypto_kdf108_init',
  'load_system_certificate_list',
  'init_kprobe_trace',
  'trace_eval_init',
];

/** What the machine is made of. */
export interface BochsShape {
  readonly memoryMiB: number;
  /** Where we listen for its second serial port, on 127.0.0.1. */
  readonly port: number;
}

/** A piece of RAM that Bochs fills from a file before the processor starts. */
export interface RamImage {
  /** Its name in the machine's folder. */
  readonly file: string;
  readonly address: number;
}

/** The machine's files, in its folder, where Bochs runs: a bochsrc has no way to write every path. */
export const BOCHS_FILES = {
  configuration: 'bochsrc',
  script: 'debugger',
  rom: 'rom',
  videoRom: 'video-rom',
  console: 'console',
  log: 'log',
} as const;

/**
 * The text of a bochsrc. No disks, no network, no PCI: the machine finds all in its RAM and talks
 * over two serial ports.
 */
export function bochsConfiguration(shape: BochsShape, images: readonly RamImage[]): string {
  return [
    'config_interface: textconfig',
    // On a terminal of its own, never opened; the others need a display, or listen for VNC.
    'display_library: term',
    `memory: guest=${shape.memoryMiB}, host=${shape.memoryMiB}`,
    `romimage: file=${BOCHS_FILES.rom}`,
    `vgaromimage: file=${BOCHS_FILES.videoRom}`,
    ...images.map(
      ({ file, address }, index) =>
        `optramimage${index + 1}: file=${file}, address=0x${address.toString(16)}`,
    ),
    `cpu: model=corei7_skylake_x, count=1, ips=${INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0`,
    'clock: sync=none',
    'pci: enabled=0',
    'vga: extension=none',
    // Without sound cards ALSA makes Bochs die.
    'plugin_ctrl: speaker=0, gameport=0, parallel=0, busmouse=0',
    'sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy',
    `com1: enabled=1, mode=file, dev=${BOCHS_FILES.console}`,
    `com2: enabled=1, mode=socket-client, dev=127.0.0.1:${shape.port}`,
    `log: ${BOCHS_FILES.log}`,
    'panic: action=fatal',
    'error: action=ignore',
    'info: action=ignore',
    'debug: action=ignore',
    '',
  ].join('\n');
}

/** The command line. Debian's Bochs has its debugger built in, which needs a command to continue. */
export function bochsCommand(bochs: string): string[] {
  return [bochs, '-q', '-f', BOCHS_FILES.configuration, '-rc', BOCHS_FILES.script];
}

/** What the debugger reads. */
export const DEBUGGER_SCRIPT = 'c\n';

/**
 * The kernel's command line.
 * @param imageMiB RAM that the memory map names
 * @param token what the machine sends first on its second serial port
 */
export function bochsKernelCommandLine(
  shape: BochsShape,
  imageMiB: number,
  token: string,
  more: string,
): string {
  const own = [
    'console=ttyS0,115200',
    // Each character takes the time of thousands of instructions.
    'quiet',
    // There are no tables, and no local APIC without them: the timer is the PIT.
    'acpi=off',
    'nokaslr',
    'mitigations=off',
    'audit=0',
    'cryptomgr.notests',
    `initcall_blacklist=${LEFT_OUT.join(',')}`,
    'no_timer_check',
    'tsc=reliable',
    `tsc_early_khz=${INSTRUCTIONS_PER_SECOND / 1000}`,
    `memmap=${shape.memoryMiB - imageMiB}M@${imageMiB}M`,
    // By a triple fault, which ends Bochs.
    'panic=-1',
    'reboot=t',
    'softlockup_panic=1',
    `nodevmm.token=${token}`,
  ];
  return [...own, more].join(' ').trim();
}
