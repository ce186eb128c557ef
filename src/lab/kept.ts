/** A lab that outlives a command: kept by its own process, shared through a socket. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join, sep } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { AgentBroker } from '../agent/broker.ts';
import { cacheFolder, contentHash } from '../guest/cache.ts';
import type { Progress } from '../guest/kernel.ts';
import { PeerError } from '../host/errors.ts';
import { ListenPath } from '../host/listen-path.ts';
import { projectFolder } from '../host/package-folder.ts';
import { runtimeFolder } from '../host/private-folder.ts';
import { Lab, type LabCpu, type LabOptions } from './lab.ts';

/** Where this project's lab with such a CPU is shared. */
export function keptSocket(cpu: LabCpu = 'amd'): string {
  const project = contentHash([projectFolder()]).slice(0, 8);
  return join(runtimeFolder(), `lab-${cpu === 'amd' ? '' : `${cpu}-`}${project}.sock`);
}

/** The kept lab when there is one. @param env as of LabOptions */
export async function attachKept(
  cpu: LabCpu = 'amd',
  env?: Readonly<Record<string, string>>,
): Promise<Lab | undefined> {
  try {
    return await Lab.attach(keptSocket(cpu), env);
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'E_AGENT_GONE') return undefined;
    throw error;
  }
}

/**
 * The kept lab, or one that ends with this process. What is kept keeps its own size and extras; it can only write
 * to its own folders.
 */
export async function openLab(options: LabOptions = {}): Promise<Lab> {
  const shares = extraShares(options.shares ?? [], options.cpu);
  const kept = shares.length === 0 ? await attachKept(options.cpu, options.env) : undefined;
  return kept ?? (await Lab.boot({ ...options, shares }));
}

/** The folders that not every lab may write to. */
export function extraShares(shares: readonly string[], cpu?: LabCpu): string[] {
  // With an Intel CPU some of the others are missing, too.
  const known = cpu === 'intel' ? [] : [projectFolder(), cacheFolder()];
  return shares.filter(
    (share) => !known.some((folder) => share === folder || share.startsWith(`${folder}${sep}`)),
  );
}

/**
 * Shares a lab with other processes for as long as this one lives.
 * @returns the server, listening at `keptSocket(cpu)`
 * @throws UsageError when another lab is kept
 */
export async function shareLab(lab: Lab, cpu: LabCpu = 'amd'): Promise<Server> {
  const listening = new ListenPath(keptSocket(cpu));
  const broker = new AgentBroker(
    lab.agent,
    new PeerError(
      'E_LAB_STOPPED',
      'the lab was stopped (nodevmm lab --stop) before the command had ended',
    ),
  );
  const server = createServer((stream) => void broker.serve(stream));
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ fd: listening.takeFd() }, resolve);
  });
  return server;
}

/** One line of the keeper's standard output. */
export type KeeperReport =
  | { readonly step: string; readonly done: number }
  | { readonly error: string; readonly remedy?: string };

/**
 * Starts a process that boots a lab and keeps it.
 * @throws PeerError when it does not come up
 */
export async function keepLab(
  options: Omit<LabOptions, 'onProgress'>,
  progress: Progress,
): Promise<void> {
  const keeper = fileURLToPath(new URL('./keeper.js', import.meta.url));
  // Nothing else reports why a kept lab ended.
  const log = openSync(`${keptSocket(options.cpu)}.log`, 'a', 0o600);
  const child = spawn(process.execPath, [keeper, JSON.stringify(options)], {
    detached: true,
    stdio: ['ignore', 'pipe', log],
  });
  closeSync(log);
  const reports = child.stdout as Readable;
  for await (const line of createInterface(reports)) {
    const report = JSON.parse(line) as KeeperReport;
    if ('error' in report) throw new PeerError('E_LAB', report.error, report.remedy);
    progress(report.step, report.done);
    if (report.step !== KEPT) continue;
    reports.destroy();
    child.unref();
    return;
  }
  throw new PeerError(
    'E_LAB',
    'the process that keeps the lab exited at once',
    'try without --keep',
  );
}

/** The last step that a keeper reports. */
export const KEPT = 'lab: kept';

/** Ends the kept lab with everything in it. @returns false when there was none */
export async function stopKept(cpu: LabCpu = 'amd'): Promise<boolean> {
  const lab = await attachKept(cpu);
  if (lab === undefined) return false;
  lab.agent.announceStop();
  // Each of the emulators ends with a reset.
  await lab.agent.exec(['/run/nodevmm/busybox', 'reboot', '-f']).catch(() => {});
  await lab.close();
  return true;
}
