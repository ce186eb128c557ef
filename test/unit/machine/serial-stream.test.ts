import { once } from 'node:events';
import t from 'tap';
import { SerialStream } from '../../../src/machine/consoles.ts';
import { Serial16550 } from '../../../src/platform/serial-16550.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

/** A stream connected to a serial port that a guest drives. */
function connected() {
  const seen: Buffer[] = [];
  const stream = new SerialStream((bytes) => seen.push(Buffer.from(bytes)));
  const plug = () => {
    const state = new SharedState(SharedState.allocate(0x2_0000));
    const serial = new Serial16550(state, new FakeInterrupts(), 4, () => stream.collect());
    serial.reset();
    stream.connect(serial);
    return {
      serial,
      print: (text: string) => {
        for (const byte of Buffer.from(text)) serial.write(0, 1, byte);
      },
      type: () => {
        let text = '';
        while ((serial.read(5, 1) & 1) !== 0) text += String.fromCharCode(serial.read(0, 1));
        return text;
      },
    };
  };
  return { stream, plug, seen: () => Buffer.concat(seen).toString('latin1') };
}

function drain(stream: SerialStream): string {
  const parts: Buffer[] = [];
  for (let part: unknown = stream.read(); part !== null; part = stream.read()) {
    parts.push(part as Buffer);
  }
  return Buffer.concat(parts).toString('latin1');
}

/** Prints like a driver, as long as THRE is set, at most `total` bytes. */
function printAll(guest: { serial: Serial16550; print: (text: string) => void }, total: number) {
  const parts: string[] = [];
  for (let at = 0; at < total && (guest.serial.read(5, 1) & 0x20) !== 0; at += 16) {
    const text = `${at}`.padStart(16, '.');
    guest.print(text);
    parts.push(text);
  }
  return parts.join('');
}

t.test('what the guest prints can be read', async (t) => {
  const { stream, plug, seen } = connected();
  const guest = plug();
  guest.print('hello');
  t.equal(drain(stream), 'hello');
  t.equal(seen(), 'hello');
  stream.destroy();
});

t.test('what is written is typed', async (t) => {
  const { stream, plug } = connected();
  const guest = plug();
  stream.write('root\n');
  t.equal(guest.type(), 'root\n');
  stream.destroy();
});

t.test('more input than the port holds waits, and arrives in order', async (t) => {
  const { stream, plug } = connected();
  const guest = plug();
  const text = Array.from({ length: 2000 }, (_, i) => `${i},`).join('');
  let done = false;
  stream.write(text, () => {
    done = true;
  });
  let typed = '';
  while (!done) {
    typed += guest.type();
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.equal(typed + guest.type(), text);
  stream.destroy();
});

t.test('output that is not read never stops the guest', async (t) => {
  const { stream, plug, seen } = connected();
  const guest = plug();
  const total = 3 * 2 ** 20;
  const sent = printAll(guest, total);
  t.equal(sent.length, total, 'the transmitter was empty all the time');
  t.ok(seen() === sent, 'an observer sees all of it');
  const { dropped } = stream;
  const got = drain(stream);
  const notice = `\r\n[${dropped} bytes of console output dropped]\r\n`;
  t.ok(got.endsWith(notice), 'the gap is reported');
  const kept = got.slice(0, -notice.length);
  t.ok(kept.length >= 2 ** 20 && sent.startsWith(kept));
  t.equal(kept.length + dropped, total, 'and counted');
  stream.destroy();
});

t.test('a power-off loses no output, although it is unread', async (t) => {
  const { stream, plug, seen } = connected();
  const guest = plug();
  const sent = printAll(guest, 2 ** 19);
  stream.connect(undefined);
  const second = plug();
  second.print('next boot');
  let got = '';
  for (let i = 0; i < 10; i++) {
    got += drain(stream);
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.ok(got === `${sent}next boot`, `${got.length} of ${sent.length + 9} bytes`);
  t.ok(seen() === got);
  t.equal(stream.dropped, 0);
  stream.destroy();
});

t.test('input that was written before a reboot goes to the next boot', async (t) => {
  const { stream, plug } = connected();
  const written = new Promise<void>((resolve) => stream.write('early', () => resolve()));
  const guest = plug();
  // The write is tried again by a timer that does not keep the process alive.
  const keep = setInterval(() => {}, 1000);
  await written;
  clearInterval(keep);
  t.equal(guest.type(), 'early');
  stream.destroy();
});

t.test('destroying it ends a write that waits', async (t) => {
  const { stream } = connected();
  stream.write('never');
  stream.destroy();
  await once(stream, 'close');
  t.equal(stream.destroyed, true);
});
