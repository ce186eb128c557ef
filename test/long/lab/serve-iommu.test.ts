/**
 * `nodevmm serve` behind the IOMMU of another VMM: QEMU asks for nothing in advance, so that each address is a miss of our device IOTLB
 * until it answers. QEMU emulates the processor, so that it runs on any host.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import { buildGuest } from '../../../src/guest/guests.ts';
import { messageOf } from '../../../src/host/errors.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../../support/rigs/files.ts';
import { BUNDLE, programPath } from '../../support/rigs/host.ts';

const MEMORY = '256M';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(1_200_000);

const STDIO: SpawnOptions = { stdio: ['ignore', 'ignore', 'pipe'] };

/** Stopped when its test ends, with what it complained of. */
function kept(t: Test, child: ChildProcess): [ChildProcess, string[]] {
  const output: string[] = [];
  child.stderr?.on('data', (chunk: Buffer) => output.push(chunk.toString()));
  t.teardown(async () => {
    const closed = child.exitCode ?? child.signalCode ?? once(child, 'close');
    child.kill('SIGTERM');
    await closed;
  });
  return [child, output];
}

// QEMU 7.2 without KVM ends with intel-iommu as soon as Linux's driver of the disk starts.
for (const packed of ['off', 'on']) {
  t.test(`a disk behind virtio-iommu, packed=${packed}`, async (t) => {
    const folder = testFolder(t);
    const at = (file: string): string => join(folder, file);
    const content = randomBytes(MiB);
    writeFileSync(at('disk'), content);
    const { kernel, initrd } = await buildGuest('minimal');
    const listening = createServer();
    listening.listen(at('agent'));
    await once(listening, 'listening');
    t.teardown(() => listening.close());
    const served = ['serve', 'blk', at('disk'), '--socket', at('socket')];
    const [server, complaints] = kept(t, spawn(process.execPath, [BUNDLE, ...served], STDIO));
    while (!existsSync(at('socket')) && server.exitCode === null) await delay(20);
    const device = `vhost-user-blk-pci,chardev=c,packed=${packed},disable-legacy=on,iommu_platform=on,ats=on`;
    const [qemu, output] = kept(
      t,
      spawn(
        programPath('qemu-system-x86_64'),
        [
          ...['-accel', 'tcg,thread=multi', '-cpu', 'max'],
          ...['-M', 'q35,memory-backend=ram'],
          ...['-m', MEMORY, '-object', `memory-backend-memfd,id=ram,size=${MEMORY},share=on`],
          ...[
            '-display',
            'none',
            '-nodefaults',
            '-no-reboot',
            '-kernel',
            kernel,
            '-initrd',
            initrd,
          ],
          ...['-append', 'quiet panic=-1 nodevmm.shell=0', '-device', 'virtio-iommu-pci,addr=0x1e'],
          ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,path=${at('agent')}`],
          ...['-device', 'virtserialport,chardev=agent,name=org.nodevmm.agent'],
          ...['-chardev', `socket,id=c,path=${at('socket')}`, '-device', device],
        ],
        STDIO,
      ),
    );
    const ended = once(qemu, 'close').then(([status, signal]) => {
      throw new Error(`QEMU ended with ${signal ?? status}: ${output.join('')}`);
    });
    ended.catch(() => {});
    const [stream] = (await Promise.race([once(listening, 'connection'), ended])) as [Socket];
    using agent = new AgentClient(stream);
    const run = async (script: string): Promise<string> => {
      const answer = agent.exec(['sh', '-c', script]);
      const { stdout, stderr, exitCode } = await answer.catch((error) => {
        throw new Error(`${messageOf(error)}; QEMU: ${output.join('')}`);
      });
      t.equal(exitCode, 0, `${script}: ${stderr}`);
      return stdout.toString().trim();
    };
    // SeaBIOS has used the disk without the IOMMU.
    await run('dmesg -c >/dev/null');
    const dd = 'dd bs=16k 2>/dev/null';
    t.match(
      await run('ls -d /sys/kernel/iommu_groups/*/devices/*/virtio*/block'),
      /block$/,
      'the disk is in a group',
    );
    const read = `${dd} if=/dev/vda iflag=direct | sha256sum`;
    t.match(await run(read), sha256(content), 'the guest reads the file');
    const written = await run(
      `${dd} if=/dev/urandom of=/dev/vda count=32 oflag=direct conv=fsync; ${read}`,
    );
    t.match(written, sha256(readFileSync(at('disk'))), 'and writes it');
    t.equal(await run('dmesg | grep -e "I/O error" -e "fault from" || true'), '');
    t.same(
      complaints.filter((text) => !text.includes('listening on')),
      [],
      'no complaints',
    );
  });
}
