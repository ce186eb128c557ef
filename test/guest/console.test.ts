/** Both consoles with Linux: typing, sizes, large amounts of data. */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256 } from '../support/rigs/files.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

/** What a console has printed, to wait on. */
class Screen {
  #text = '';
  #changed: () => void = () => {};

  constructor(console: Duplex) {
    console.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1');
      this.#changed();
    });
  }

  /** Waits for a pattern, and forgets everything up to its end. @returns what matched */
  async shows(pattern: RegExp): Promise<string> {
    for (;;) {
      const match = pattern.exec(this.#text);
      if (match !== null) {
        this.#take(match.index);
        return this.#take(match[0].length);
      }
      await this.#change();
    }
  }

  /** Waits for so many bytes. */
  async bytes(length: number): Promise<Buffer> {
    while (this.#text.length < length) await this.#change();
    return Buffer.from(this.#take(length), 'latin1');
  }

  #take(length: number): string {
    const taken = this.#text.slice(0, length);
    this.#text = this.#text.slice(length);
    return taken;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#changed = resolve;
    });
  }
}

const vm = await bootGuest({ append: 'nodevmm.shell=0' });
t.teardown(() => vm[Symbol.asyncDispose]());

/** A shell on a terminal of the guest. */
function shellOn(device: string, console: Duplex): Screen {
  const screen = new Screen(console);
  const shell = vm.spawn(['nodevmm-agent', 'console', device, 'busybox', 'sh'], {
    env: { PS1: 'ready> ' },
  });
  shell.exit.catch(() => {});
  return screen;
}

t.test('hvc0', async (t) => {
  const screen = shellOn('/dev/hvc0', vm.console);
  await screen.shows(/ready> /);

  await t.test('what is typed is echoed, and obeyed', async (t) => {
    vm.console.write('echo $((6 * 7))\n');
    await screen.shows(/echo \$\(\(6 \* 7\)\)\r\n42\r\nready> /);
    t.pass();
  });

  await t.test('Ctrl-C interrupts what runs', async (t) => {
    // What says that it runs is interrupted itself: a shell that has not started its command yet misses a signal.
    vm.console.write(`sh -c 'echo be""gun; sleep 1000'\n`);
    await screen.shows(/begun\r\n/);
    vm.console.write('\x03');
    await screen.shows(/ready> /);
    t.pass();
  });

  await t.test('a resize reaches the terminal and its programs', async (t) => {
    vm.console.write('trap "stty size" WINCH; echo tra""pped\n');
    await screen.shows(/trapped\r\n/);
    vm.resizeConsole(123, 45);
    // The shell runs the trap before its next prompt.
    vm.console.write('\n');
    await screen.shows(/45 123/);
    t.equal(await guestShell(vm, 'stty size </dev/hvc0'), '45 123');
  });

  await t.test('1 MiB is printed and typed unchanged', async (t) => {
    // Ctrl-O on hvc0 is Linux's magic SysRq key.
    const bytes = randomBytes(MiB).map((byte) => (byte === 0x0f ? 0 : byte));
    vm.console.write(`stty raw -echo; echo ra""w; head -c ${MiB} >/in; echo re""ad; cat /in\n`);
    await screen.shows(/raw\n/);
    vm.console.write(bytes);
    await screen.shows(/read\n/);
    t.equal(sha256(await screen.bytes(MiB)), sha256(bytes), 'printed');
    t.equal(await guestShell(vm, 'sha256sum </in'), `${sha256(bytes)}  -`, 'typed');
  });
});

t.test('unread consoles block nothing', async (t) => {
  const screens = [new Screen(vm.console), new Screen(vm.serial)];
  for (const stream of [vm.console, vm.serial]) stream.pause();
  for (const [device, letter] of [
    ['hvc0', 'h'],
    ['ttyS0', 's'],
  ] as const) {
    // More than streams and pipes between hold: hvc would spin with interrupts off.
    const print = `head -c 200000 /dev/zero | tr '\\0' ${letter} >/dev/${device}; echo done`;
    t.equal(await guestShell(vm, print), 'done', device);
  }
  t.same(vm.droppedOutput, { console: 0, serial: 0 });
  for (const stream of [vm.console, vm.serial]) stream.resume();
  await screens[0]?.shows(/h{200000}/);
  await screens[1]?.shows(/s{200000}/);
  t.pass('and below the bound nothing is lost');
});

t.test('ttyS0', async (t) => {
  const screen = shellOn('/dev/ttyS0', vm.serial);
  await screen.shows(/ready> /);
  vm.serial.write('echo $((6 * 7))\n');
  await screen.shows(/echo \$\(\(6 \* 7\)\)\r\n42\r\nready> /);
  vm.serial.write('cat </dev/zero | head -c 20000 | tr "\\0" x; echo; echo do""ne\n');
  const all = await screen.shows(/x+\r\ndone/);
  t.equal(all.length, 20_000 + '\r\ndone'.length, 'nothing is lost');
});
