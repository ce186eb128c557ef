/** No process or folder of a lab outlives the process that booted it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import t from 'tap';
import { Fd } from '../../../src/host/fd.ts';
import { runtimeFolder } from '../../../src/host/private-folder.ts';
import { O_RDONLY } from '../../../src/host/syscall.ts';
import { Children, FIRST_FD } from '../../../src/lab/children.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { OTHER_UID, otherUserReason } from '../../support/rigs/host.ts';

const runtime = testFolder(t);
process.env.XDG_RUNTIME_DIR = runtime;

const module = new URL('../../../src/lab/children.js', import.meta.url).href;
/** Prints the folder and the child's process id, then waits to be ended. */
const program = `
  import { Children } from ${JSON.stringify(module)};
  const children = new Children();
  const having = process.geteuid() === 0 ? { uid: ${OTHER_UID} } : {};
  const child = children.start(['sh', '-c', 'echo up; exec sleep 1000'], having);
  child.stdout.once('data', () => console.log(JSON.stringify([children.folder, child.pid])));
  process.stdin.on('end', () => process.exit(5)).resume();`;

async function start(): Promise<{ owner: ReturnType<typeof spawn>; folder: string; pid: number }> {
  const owner = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const [line] = (await once(owner.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  const [folder, pid] = JSON.parse(line.toString()) as [string, number];
  return { owner, folder, pid };
}

/** Waits for the owner's end, then for the child's. */
async function isGone(owner: ReturnType<typeof spawn>, pid: number): Promise<boolean> {
  if (owner.exitCode === null && owner.signalCode === null) await once(owner, 'exit');
  const deadline = Date.now() + 10_000;
  while (isRunning(pid)) {
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setImmediate(resolve));
  }
  return true;
}

/** A dead process stays as a zombie until its new parent looks (proc(5), the third field of stat). */
function isRunning(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  t.test(`after ${signal}`, async (t) => {
    const { owner, folder, pid } = await start();
    owner.kill(signal);
    t.ok(await isGone(owner, pid));
    t.equal(owner.signalCode, signal, 'the signal has its usual effect');
    t.notOk(existsSync(folder));
  });
}

t.test('after process.exit', async (t) => {
  const { owner, folder, pid } = await start();
  owner.stdin?.end();
  t.ok(await isGone(owner, pid));
  t.equal(owner.exitCode, 5);
  t.notOk(existsSync(folder));
});

t.test('after SIGKILL, where the folder is left to the next lab', async (t) => {
  const { owner, folder, pid } = await start();
  owner.kill('SIGKILL');
  t.ok(await isGone(owner, pid));
  t.ok(existsSync(folder));
  using next = new Children();
  t.ok(existsSync(next.folder));
  t.notOk(existsSync(folder));
  t.equal(dirname(next.folder), runtimeFolder(), 'both in a folder of our own');
});

t.test(
  'a program without rights has what it is handed only',
  { skip: otherUserReason() },
  async (t) => {
    using children = new Children();
    const file = join(children.folder, 'file');
    writeFileSync(file, 'handed', { mode: 0o600 });
    using handed = Fd.open(file, O_RDONLY);
    const script = `cat <&${FIRST_FD}; cat ${file} 2>&1; cat /proc/self/status`;
    const child = children.start(['sh', '-c', script], {
      ...{ fds: [handed.fd], uid: OTHER_UID },
    });
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    await once(child, 'close');
    t.match(text, /^handedcat: .*file: Permission denied\n/);
    t.match(text, /^Uid:(\t65534){4}\nGid:(\t65534){4}$/m);
    t.match(text, /^Groups:\s*$/m);
    t.match(text, /^CapBnd:\t0+\n.*\nNoNewPrivs:\t1$/m);
  },
);

t.test("a lab that starts leaves other people's files alone", async (t) => {
  const { owner, pid } = await start();
  owner.kill('SIGKILL');
  t.ok(await isGone(owner, pid));
  // As such folders were called, of a process that is dead.
  const theirs = join(tmpdir(), `nodevmm-lab-${owner.pid}-theirs`);
  mkdirSync(theirs);
  t.teardown(() => rmSync(theirs, { recursive: true }));
  writeFileSync(join(theirs, 'precious'), '');
  if (process.geteuid?.() === 0) chownSync(theirs, OTHER_UID, OTHER_UID);
  const link = join(runtimeFolder(), 'lab-booted-link');
  symlinkSync(theirs, link);
  t.teardown(() => rmSync(link));
  using _next = new Children();
  t.same(readdirSync(theirs), ['precious']);
});
