/** Devices in other processes: `vhost-user=SOCKET` for `--disk` and `--net`, `--fs`, and `--device vhost-user`. */
import { UsageError } from '../../host/errors.ts';
import type { VhostUserOptions } from '../../machine/options.ts';
import { KeyValues } from '../key-values.ts';
import { given, namesFolder, RING_KEYS, TRANSPORTS, takeRing } from './device-options.ts';

const COMMON_KEYS = ['server', 'queues', 'timeout', 'peer-uid', 'transport', ...RING_KEYS] as const;

/** True for a value of `--disk` or `--net` that names a backend. */
export function namesBackend(text: string): boolean {
  return text.startsWith('vhost-user=');
}

/** `--disk vhost-user=SOCKET[,queues=N][,server][,timeout=MS][,peer-uid=UID][,RING...]`. @throws UsageError */
function parseVhostUserDisk(text: string): VhostUserOptions {
  const values = new KeyValues('--disk', text, 'vhost-user');
  return finish(values, { type: 'blk', ...takeBackend('--disk', text, values, 'vhost-user') }, []);
}

/** `--net vhost-user=SOCKET[,mac=M][,queues=N][,server][,timeout=MS][,peer-uid=UID][,RING...]`. @throws UsageError */
function parseVhostUserNet(text: string): VhostUserOptions {
  const values = new KeyValues('--net', text, 'vhost-user');
  const mac = values.text('mac');
  const backend = takeBackend('--net', text, values, 'vhost-user');
  return finish(values, given<VhostUserOptions>({ type: 'net', ...backend, mac }), ['mac']);
}

/** `--fs tag=T,vhost-user=SOCKET[,queues=N][,server][,timeout=MS][,peer-uid=UID][,RING...]`. @throws UsageError */
function parseVhostUserFs(text: string): VhostUserOptions {
  const values = new KeyValues('--fs', text, 'tag');
  const tag = values.text('tag');
  if (tag === undefined) throw new UsageError('E_OPTION', `--fs ${text} has no tag=NAME`);
  return finish(values, { type: 'fs', ...takeBackend('--fs', text, values, 'vhost-user'), tag }, [
    'tag',
  ]);
}

/** True for a value of `--device` that names a backend, not a file. */
export function isGenericBackend(text: string): boolean {
  return text === 'vhost-user' || text.startsWith('vhost-user,');
}

/** `--device vhost-user,type=ID,socket=PATH[,queues=N][,config-size=N]...`. @throws UsageError */
function parseVhostUserDevice(text: string): VhostUserOptions {
  const values = new KeyValues('--device', text, 'device');
  values.text('device');
  const name = values.text('type');
  const type = name === 'net' || name === 'blk' || name === 'fs' ? name : Number(name);
  if (name === undefined || Number.isNaN(type)) {
    throw new UsageError(
      'E_OPTION',
      `--device ${text} has no type=ID; take net, blk, fs or a number`,
    );
  }
  const configSize = values.count('config-size');
  const tag = values.text('tag');
  const mac = values.text('mac');
  const backend = takeBackend('--device', text, values, 'socket');
  return finish(values, given<VhostUserOptions>({ type, ...backend, configSize, tag, mac }), [
    'type',
    'socket',
    'config-size',
    'tag',
    'mac',
  ]);
}

function takeBackend(
  option: string,
  text: string,
  values: KeyValues,
  socketKey: string,
): Omit<VhostUserOptions, 'type'> {
  const socket = values.text(socketKey);
  if (socket === undefined) {
    throw new UsageError('E_OPTION', `${option} ${text} has no ${socketKey}=PATH`);
  }
  return given<Omit<VhostUserOptions, 'type'>>({
    socket,
    server: values.flag('server'),
    queues: values.count('queues'),
    timeoutMs: values.count('timeout'),
    peerUid: values.count('peer-uid', 10),
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
}

/** All devices of a command line that other processes serve. @throws UsageError */
export function parseVhostUser(flags: {
  readonly disk?: readonly string[];
  readonly net?: readonly string[];
  readonly fs?: readonly string[];
  readonly device?: readonly string[];
}): VhostUserOptions[] {
  return [
    ...(flags.disk ?? []).filter(namesBackend).map(parseVhostUserDisk),
    ...(flags.net ?? []).filter(namesBackend).map(parseVhostUserNet),
    ...(flags.fs ?? []).filter((text) => !namesFolder(text)).map(parseVhostUserFs),
    ...(flags.device ?? []).filter(isGenericBackend).map(parseVhostUserDevice),
  ];
}

function finish(
  values: KeyValues,
  options: VhostUserOptions,
  keys: readonly string[],
): VhostUserOptions {
  values.finish([...keys, ...COMMON_KEYS]);
  return options;
}
