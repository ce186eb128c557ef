/** The devices of `nodevmm run`: `--disk`, `--net`, `--vsock`, `--rng` and `--ring`. */
import { UsageError } from '../../host/errors.ts';
import type {
  CarriedOptions,
  DiskOptions,
  FileSystemOptions,
  NetOptions,
  OwnDeviceOptions,
  RingOptions,
  TransportName,
  VsockOptions,
} from '../../machine/options.ts';
import { KeyValues } from '../key-values.ts';

/** An object without the keys whose values are undefined: options say what was asked, no more. */
export function given<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined),
  ) as unknown as T;
}

export const RING_KEYS = [
  'packed',
  'indirect',
  'event-idx',
  'in-order',
  'notification-data',
  'ring-reset',
  'queue-size',
] as const;

export function takeRing(values: KeyValues): RingOptions | undefined {
  const ring = given<RingOptions>({
    packed: values.flag('packed'),
    indirect: values.flag('indirect'),
    eventIdx: values.flag('event-idx'),
    inOrder: values.flag('in-order'),
    notificationData: values.flag('notification-data'),
    ringReset: values.flag('ring-reset'),
    queueSize: values.count('queue-size'),
  });
  return Object.keys(ring).length === 0 ? undefined : ring;
}

/** Values of `transport=` and `--transport`. */
export const TRANSPORTS: readonly TransportName[] = ['pci', 'mmio'];

/** `--disk PATH[,ro][,queues=N][,serial=S][,direct][,block-size=N][,engine=E][,transport=T][,RING...]`. @throws UsageError */
export function parseDisk(text: string): DiskOptions {
  const values = new KeyValues('--disk', text, 'path');
  const path = values.text('path');
  if (path === undefined) throw new UsageError('E_OPTION', `--disk ${text} names no file`);
  const disk = given<DiskOptions>({
    path,
    readOnly: values.flag('ro'),
    queues: values.count('queues'),
    serial: values.text('serial'),
    direct: values.flag('direct'),
    blockSize: values.count('block-size'),
    engine: values.choice('engine', ['sync', 'io_uring']),
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
  values.finish([
    'ro',
    'queues',
    'serial',
    'direct',
    'block-size',
    'engine',
    'transport',
    ...RING_KEYS,
  ]);
  return disk;
}

/** `--net TAP|auto[,model=M][,mac=M][,queues=N][,address=A/LEN][,mtu=N][,vhost=V][,transport=T][,RING...]`. @throws UsageError */
export function parseNet(text: string): NetOptions {
  const values = new KeyValues('--net', text, 'tap');
  const tap = values.text('tap');
  const net = given<NetOptions>({
    tap: tap === 'auto' ? undefined : tap,
    model: values.choice('model', ['virtio', 'e1000']),
    mac: values.text('mac'),
    queues: values.count('queues'),
    hostAddress: values.text('address'),
    mtu: values.count('mtu'),
    offloads: values.flag('offloads'),
    mergeableBuffers: values.flag('mergeable-buffers'),
    vhost: values.choice('vhost', ['on', 'off', 'auto']),
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
  values.finish([
    'tap',
    'model',
    'mac',
    'queues',
    'address',
    'mtu',
    'offloads',
    'mergeable-buffers',
    'vhost',
    'transport',
    ...RING_KEYS,
  ]);
  return net;
}

/** True for a value of `--fs` that names a folder of this host, and no backend. */
export function namesFolder(text: string): boolean {
  return !/(^|,)vhost-user=/.test(text);
}

/** `--fs tag=T,source=DIR[,readonly][,submounts][,xattr=M][,mknod][,queues=N][,transport=T][,RING...]`. @throws UsageError */
export function parseFs(text: string): FileSystemOptions {
  return takeFs(new KeyValues('--fs', text, 'tag'), `--fs ${text}`);
}

/** As `parseFs`, of `serve fs DIR[,tag=T]...`: to QEMU the tag is its own affair. @throws UsageError */
export function parseServedFs(text: string): FileSystemOptions {
  return takeFs(new KeyValues('serve fs', text, 'source'), `serve fs ${text}`, 'nodevmm');
}

function takeFs(values: KeyValues, said: string, defaultTag?: string): FileSystemOptions {
  const tag = values.text('tag') ?? defaultTag;
  const source = values.text('source');
  if (tag === undefined) throw new UsageError('E_OPTION', `${said} has no tag=NAME`);
  if (source === undefined) {
    throw new UsageError('E_OPTION', `${said} has no source=FOLDER, nor vhost-user=SOCKET`);
  }
  const fs = given<FileSystemOptions>({
    tag,
    source,
    readOnly: values.flag('readonly'),
    submounts: values.flag('submounts'),
    xattr: values.choice('xattr', ['mapped', 'passthrough']),
    mknod: values.flag('mknod'),
    queues: values.count('queues'),
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
  values.finish([
    'tag',
    'source',
    'readonly',
    'submounts',
    'xattr',
    'mknod',
    'queues',
    'transport',
    ...RING_KEYS,
  ]);
  return fs;
}

/** `--vsock cid=N[,path=SOCKET][,vhost=V][,transport=T][,RING...]`. @throws UsageError */
export function parseVsock(text: string): VsockOptions {
  const values = new KeyValues('--vsock', text, 'cid');
  const cid = values.count('cid', 10);
  if (cid === undefined) throw new UsageError('E_OPTION', `--vsock ${text} has no cid=N`);
  const vsock = given<VsockOptions>({
    cid,
    path: values.text('path'),
    peerUid: values.count('peer-uid', 10),
    vhost: values.choice('vhost', ['on', 'off', 'auto']),
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
  values.finish(['cid', 'path', 'peer-uid', 'vhost', 'transport', ...RING_KEYS]);
  return vsock;
}

/** `--device FILE[,thread=worker][,transport=T][,RING...][,KEY=VALUE...]`. @throws UsageError */
export function parseOwnDevice(text: string): OwnDeviceOptions {
  const values = new KeyValues('--device', text, 'file');
  const module = values.text('file');
  if (module === undefined) throw new UsageError('E_OPTION', `--device ${text} names no file`);
  const thread = values.choice('thread', ['main', 'worker']);
  const transport = values.choice('transport', TRANSPORTS);
  const ring = takeRing(values);
  return {
    module,
    ...(thread === undefined ? {} : { thread }),
    ...(transport === undefined ? {} : { transport }),
    ...(ring === undefined ? {} : { ring }),
    options: values.rest(),
  };
}

/** `--rng transport=T[,RING...]`. @throws UsageError */
export function parseRng(text: string): CarriedOptions {
  const values = new KeyValues('--rng', text, 'transport');
  const rng = given<CarriedOptions>({
    transport: values.choice('transport', TRANSPORTS),
    ring: takeRing(values),
  });
  values.finish(['transport', ...RING_KEYS]);
  return rng;
}

/** Ring options of the devices that have no option of their own, and of all devices. */
export type RingDefaults = { readonly [device in 'all' | 'console' | 'rng']?: RingOptions };

/** `--ring all|console|rng,KEYS`, several. @throws UsageError */
export function parseRings(texts: readonly string[]): RingDefaults {
  const rings: { [device in 'all' | 'console' | 'rng']?: RingOptions } = {};
  for (const text of texts) {
    const values = new KeyValues('--ring', text, 'device');
    const device = values.choice('device', ['all', 'console', 'rng']);
    const ring = takeRing(values);
    values.finish(RING_KEYS);
    if (device === undefined || ring === undefined) {
      throw new UsageError('E_OPTION', `--ring ${text} is no DEVICE,KEY...; take all,packed`);
    }
    rings[device] = { ...rings[device], ...ring };
  }
  return rings;
}

/** A device's ring options over those of all devices. */
export function withDefaults(
  ring: RingOptions | undefined,
  defaults: RingDefaults,
): { ring?: RingOptions } {
  const merged = { ...defaults.all, ...ring };
  return Object.keys(merged).length === 0 ? {} : { ring: merged };
}
