/** The UART, against the data sheet of the PC16550D (National Semiconductor, 1995). */
import t from 'tap';
import { Serial16550 } from '../../../src/platform/serial-16550.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

const DATA = 0;
const IER = 1;
const IIR = 2;
const FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

const RDI = 1;
const THRI = 2;
const NO_INTERRUPT = 1;
const THR_EMPTY = 2;
const RECEIVED = 4;
const DATA_READY = 1;
const THRE_TEMT = 0x60;
const LINE = 4;

class Uart {
  readonly port = new FakeInterrupts();
  readonly buffer = SharedState.allocate(0x2_0000);
  readonly serial: Serial16550;
  reports = 0;

  constructor() {
    this.serial = new Serial16550(new SharedState(this.buffer), this.port, LINE, () => {
      this.reports++;
    });
    this.serial.reset();
    this.port.take();
  }
  read(offset: number): number {
    return this.serial.read(offset, 1);
  }
  write(offset: number, value: number): void {
    this.serial.write(offset, 1, value);
  }
  get line(): boolean {
    return this.port.lines.get(LINE) ?? false;
  }
  input(text: string): number {
    return this.serial.pushInput(Buffer.from(text));
  }
  output(): string {
    return this.serial.takeOutput().toString('latin1');
  }
}

t.test('§8.0 table II: registers after a reset', async (t) => {
  const u = new Uart();
  t.same(
    [IER, IIR, LCR, MCR, LSR].map((offset) => u.read(offset)),
    [0, NO_INTERRUPT, 0, 0, THRE_TEMT],
  );
  t.equal(u.line, false);
});

t.test('§8.9 the scratch register keeps what is written', async (t) => {
  const u = new Uart();
  for (const value of [0xa5, 0x5a]) {
    u.write(SCR, value);
    t.equal(u.read(SCR), value);
  }
});

t.test('§8.2 the divisor latch is behind DLAB', async (t) => {
  const u = new Uart();
  u.write(IER, RDI);
  u.write(LCR, 0x83);
  u.write(DATA, 0x34);
  u.write(IER, 0x12);
  t.same([u.read(DATA), u.read(IER)], [0x34, 0x12]);
  u.write(LCR, 0x03);
  t.equal(u.read(IER), RDI);
  t.equal(u.output(), '', 'the latch was not sent');
  u.write(LCR, 0x80);
  t.same([u.read(DATA), u.read(IER)], [0x34, 0x12]);
});

t.test('§8.1 bytes written to THR come out, reported once until they are taken', async (t) => {
  const u = new Uart();
  for (const byte of Buffer.from('hello')) u.write(DATA, byte);
  t.equal(u.reports, 1);
  t.equal(u.output(), 'hello');
  t.equal(u.output(), '');
  u.write(DATA, 0x21);
  t.equal(u.reports, 2);
  t.equal(u.output(), '!');
});

t.test('§8.1 what comes in is read from RBR, with data ready', async (t) => {
  const u = new Uart();
  t.equal(u.read(LSR) & DATA_READY, 0);
  t.equal(u.input('ab'), 2);
  t.equal(u.read(LSR) & DATA_READY, DATA_READY);
  t.equal(u.read(DATA), 0x61);
  t.equal(u.read(LSR) & DATA_READY, DATA_READY);
  t.equal(u.read(DATA), 0x62);
  t.equal(u.read(LSR) & DATA_READY, 0);
  t.equal(u.read(DATA), 0, 'nothing more');
});

t.test('§8.5 FIFOs show in IIR while they are enabled', async (t) => {
  const u = new Uart();
  u.write(FCR, 1);
  t.equal(u.read(IIR), 0xc0 | NO_INTERRUPT);
  u.write(FCR, 0);
  t.equal(u.read(IIR), NO_INTERRUPT);
});

t.test('§8.7 received data interrupts while enabled, until it is read', async (t) => {
  const u = new Uart();
  u.input('a');
  t.equal(u.line, false);
  t.equal(u.read(IIR), NO_INTERRUPT);
  u.write(IER, RDI);
  t.equal(u.line, true);
  t.equal(u.read(IIR), RECEIVED);
  t.equal(u.read(IIR), RECEIVED, 'reading IIR does not take it back');
  u.read(DATA);
  t.equal(u.line, false);
  t.equal(u.read(IIR), NO_INTERRUPT);
});

t.test('§8.6 table IV: received data goes before the empty transmitter', async (t) => {
  const u = new Uart();
  u.write(IER, RDI | THRI);
  u.input('a');
  t.equal(u.read(IIR), RECEIVED);
  u.read(DATA);
  t.equal(u.line, true);
  t.equal(u.read(IIR), THR_EMPTY);
  t.equal(u.line, false);
  t.equal(u.read(IIR), NO_INTERRUPT);
});

t.test('§8.6 reading IIR or writing THR takes the transmitter’s interrupt back', async (t) => {
  const u = new Uart();
  u.write(IER, THRI);
  t.equal(u.line, true, 'THR is empty');
  t.equal(u.read(IIR), THR_EMPTY);
  t.equal(u.line, false);
  u.port.take();
  u.write(DATA, 0x61);
  t.same(u.port.take(), ['line 4 up'], 'sent at once');
  u.write(DATA, 0x62);
  t.same(u.port.take(), ['line 4 down', 'line 4 up'], 'an edge for each');
});

t.test('§8.7 disabling an interrupt lowers the line', async (t) => {
  const u = new Uart();
  u.write(IER, RDI | THRI);
  u.input('a');
  u.write(IER, 0);
  t.equal(u.line, false);
  u.write(IER, THRI);
  t.equal(u.line, true);
});

t.test('taking output that did not fill the FIFO is no new interrupt', async (t) => {
  const u = new Uart();
  u.write(IER, THRI);
  u.write(DATA, 0x61);
  t.equal(u.read(IIR), THR_EMPTY);
  u.output();
  t.equal(u.line, false);
  t.equal(u.read(IIR), NO_INTERRUPT);
});

t.test('§8.4 while the output is unread, THRE is clear and nothing is lost', async (t) => {
  const u = new Uart();
  let sent = '';
  // A driver writes a whole FIFO of 16 bytes when it sees THRE, without looking between them.
  for (let i = 0; (u.read(LSR) & THRE_TEMT) !== 0 && i < 10_000; i++) {
    const burst = i.toString().padStart(16, '.');
    sent += burst;
    for (const byte of Buffer.from(burst)) u.write(DATA, byte);
  }
  t.ok(sent.length > 1000 && sent.length < 160_000);
  t.equal(u.read(LSR) & THRE_TEMT, 0);
  t.equal(u.output() === sent, true);
  t.equal(u.read(LSR) & THRE_TEMT, THRE_TEMT);
});

t.test('§8.4 it is so wherever the FIFO starts to fill', async (t) => {
  const u = new Uart();
  for (const byte of Buffer.from('12345')) u.write(DATA, byte);
  let sent = '12345';
  for (let i = 0; (u.read(LSR) & THRE_TEMT) !== 0 && i < 10_000; i++) {
    const burst = i.toString().padStart(16, '.');
    sent += burst;
    for (const byte of Buffer.from(burst)) u.write(DATA, byte);
  }
  t.equal(u.output() === sent, true);
});

t.test('§8.6 the transmitter interrupts when there is room again', async (t) => {
  const u = new Uart();
  u.write(IER, THRI);
  while ((u.read(LSR) & THRE_TEMT) !== 0) u.write(DATA, 0x61);
  t.equal(u.line, false, 'full');
  t.equal(u.read(IIR), NO_INTERRUPT);
  u.output();
  t.equal(u.line, true);
  t.equal(u.read(IIR), THR_EMPTY);
});

t.test('bytes written into a full FIFO are dropped', async (t) => {
  const u = new Uart();
  for (let i = 0; i < 0x2_0000; i++) u.write(DATA, i & 0xff);
  const output = u.serial.takeOutput();
  t.equal(output.length, 0x1_0000);
  t.equal(output.at(-1), 0xff);
});

t.test('input that does not fit is left to the caller', async (t) => {
  const u = new Uart();
  const text = 'x'.repeat(5000);
  const taken = u.input(text);
  t.ok(taken < 5000);
  t.equal(u.input('y'), 0);
  const got = Buffer.from(Array.from({ length: taken }, () => u.read(DATA))).toString();
  t.equal(got === text.slice(0, taken), true);
  t.equal(u.input('y'), 1);
});

t.test('§8.8 loopback sends to the receiver, and not out', async (t) => {
  const u = new Uart();
  u.write(MCR, 0x10);
  u.write(DATA, 0x5a);
  t.equal(u.output(), '');
  t.equal(u.read(LSR) & DATA_READY, DATA_READY);
  t.equal(u.read(DATA), 0x5a);
  t.equal(u.reports, 0);
});

t.test('§8.8 loopback connects the modem’s outputs to its inputs', async (t) => {
  const u = new Uart();
  for (const [outputs, inputs] of [
    [0x0, 0x00],
    [0x1, 0x20],
    [0x2, 0x10],
    [0x4, 0x40],
    [0x8, 0x80],
    [0xf, 0xf0],
    [0xa, 0x90],
  ] as const) {
    u.write(MCR, 0x10 | outputs);
    t.equal(u.read(MSR), inputs, `outputs ${outputs}`);
  }
  u.write(MCR, 0xff);
  t.equal(u.read(MCR), 0x1f, 'the rest reads as 0');
});

t.test('§8.8 outside of loopback a terminal is there: CTS, DSR, DCD', async (t) => {
  const u = new Uart();
  t.equal(u.read(MSR), 0xb0);
});

t.test('registers are bytes: wider accesses are none', async (t) => {
  const u = new Uart();
  u.serial.write(DATA, 2, 0x6161);
  u.serial.write(SCR, 4, 1);
  t.equal(u.output(), '');
  t.equal(u.read(SCR), 0);
  t.equal(u.serial.read(DATA, 2), 0xffff);
  t.equal(u.serial.read(DATA, 4), 0xffff_ffff);
});

t.test('a reset drops input and interrupts, and keeps output that was not taken', async (t) => {
  const u = new Uart();
  u.write(IER, RDI | THRI);
  u.input('a');
  u.write(DATA, 0x62);
  u.serial.reset();
  t.equal(u.line, false);
  t.equal(u.read(LSR) & DATA_READY, 0);
  t.equal(u.output(), 'b');
});

t.test('counters wrap around', async (t) => {
  const u = new Uart();
  // Heads and tails shortly before 2^31 and 2^32, as after gigabytes of output.
  for (const at of [0x7fff_fffe, 0xffff_fffe]) {
    const words = new Int32Array(u.buffer, 64, 16);
    for (const word of [7, 8, 9, 10]) words[word] = at;
    for (const byte of Buffer.from('wrap')) u.write(DATA, byte);
    t.equal(u.output(), 'wrap');
    t.equal(u.input('around'), 6);
    t.equal(String.fromCharCode(...Array.from({ length: 6 }, () => u.read(DATA))), 'around');
    t.equal(u.read(LSR), THRE_TEMT);
  }
});
