/** Devices on the command line: an option for each type that has one, and `--ring`. */
import type { Command } from 'commander';
import { UsageError } from '../../host/errors.ts';
import {
  chooseBackend,
  DEVICE_TYPES,
  keyOf,
  type MachineBackend,
  type MachineDeviceType,
} from '../../machine/devices/device-types.ts';
import type { MachineOptions } from '../../machine/options.ts';
import { choice, hasOption, options } from '../../options/option-schema.ts';
import { keysHelp, optionsFromKeys, splitKeys } from '../../options/option-text.ts';
import { RING, type RingOptions } from '../../virtio/device-type.ts';

/** A device as requested by a text. */
export interface AskedDevice {
  readonly type: MachineDeviceType;
  readonly backend: MachineBackend;
  readonly options: Readonly<Record<string, unknown>>;
}

/** How to parse a text. */
interface Reading {
  /** For messages: `--disk`. */
  readonly option: string;
  readonly firstKey: string;
  /** Keys that may be left out, by backend. */
  defaults?(backend: MachineBackend): Readonly<Record<string, string>>;
}

/** A device from the text of its option. @throws UsageError */
export function parseDevice(
  type: MachineDeviceType,
  text: string | undefined,
  { option, firstKey, defaults }: Reading,
): AskedDevice {
  const keys = text === undefined ? new Map<string, string>() : splitKeys(option, text, firstKey);
  const { backends } = type;
  const named = backends.find(({ cliName }) => cliName && cliName === keys.get(firstKey));
  if (named !== undefined) {
    keys.delete(firstKey);
    const other = DEVICE_TYPES.find(({ name }) => name === keys.get('type'));
    // `vhost-user,type=blk,socket=S` is a synonym of `vhost-user=S` of that type.
    if (other !== undefined) return parseOther(other, keys, `${option} ${text}`);
  }
  const asksFor = (name: string, value?: string): boolean =>
    backends.some((backend) => {
      const key = backend.selector?.option === name ? keyOf(backend, name) : undefined;
      const found = key === undefined ? undefined : keys.get(key);
      return value === undefined ? found !== undefined : found === value;
    });
  const backend = named ?? chooseBackend(type, asksFor);
  const values = new Map([...Object.entries(defaults?.(backend) ?? {}), ...keys]);
  const said = text === undefined ? option : `${option} ${text}`;
  return { type, backend, options: optionsFromKeys(backend.options, values, said) };
}

function parseOther(type: MachineDeviceType, keys: Map<string, string>, said: string): AskedDevice {
  const backend = chooseBackend(type, (option) => option === 'vhostUser');
  const socket = keys.get('socket');
  for (const key of ['type', 'socket']) keys.delete(key);
  if (socket !== undefined) keys.set('vhost-user', socket);
  return { type, backend, options: optionsFromKeys(backend.options, keys, said) };
}

const isOnCommandLine = (backend: MachineBackend): boolean =>
  backend.selector === undefined ||
  backend.cliName !== undefined ||
  keyOf(backend, backend.selector.option) !== undefined;

/** Collects the values of an option that may be repeated. */
export const collect = (value: string, before: readonly string[] = []): string[] => [
  ...before,
  value,
];

/** Adds an option for each type that has one. */
export function addDeviceOptions(command: Command): void {
  for (const { cli, number, summary, backends, firstKey } of DEVICE_TYPES) {
    if (cli === undefined) continue;
    const flags = `${cli.option} ${cli.bare === true ? `[${cli.value}]` : `<${cli.value}>`}`;
    const without = cli.value === 'keys' ? [] : [firstKey];
    const keys = backends
      .filter(isOnCommandLine)
      .map(({ cliName, options: schema }) =>
        [cliName ?? [], keysHelp(schema, without)].flat().join(' '),
      );
    const said = `keys: ${keys.join('; or ')}`;
    if (number === 'any') command.option(flags, `${summary}; may be repeated; ${said}`, collect);
    else command.option(flags, `${summary}; ${said}`);
    if (number === 'by-default') {
      command.option(`--no-${cli.option.slice(2)}`, `no ${summary.replace(/^the /, '')}`);
    }
  }
}

/** Their values from commander, by option name. */
export type DeviceFlags = Readonly<Record<string, unknown>>;

/** A machine's devices, by the names of its options. @throws UsageError */
export function deviceOptions(
  flags: DeviceFlags,
  rings: RingDefaults,
  console: Readonly<Record<string, unknown>>,
): Partial<MachineOptions> {
  const found: Record<string, unknown> = {};
  for (const { type, ...device } of DEVICE_TYPES.flatMap((one) => askedFor(one, flags, console))) {
    const { key, name, number } = type;
    const options = withDefaults(device, flags, [rings.all, rings[name]]);
    found[key] = number === 'any' ? [(found[key] as object[]) ?? [], options].flat() : options;
  }
  for (const { cli, key } of DEVICE_TYPES) {
    if (cli !== undefined && flags[cli.option.slice(2)] === false) found[key] = false;
  }
  return found as Partial<MachineOptions>;
}

/** The types of which a running machine can get another device, by the names of their options. */
export function addedTypes(): string[] {
  return DEVICE_TYPES.flatMap(({ cli, key, number }) =>
    cli === undefined || number === 'on-request' || key === 'vfio' ? [] : cli.option.slice(2),
  );
}

/** A device for a running machine. @param name one of `addedTypes` @throws UsageError */
export function parseAddition(name: string, text: string | undefined): Partial<MachineOptions> {
  const asked = DEVICE_TYPES.find(({ cli }) => cli?.option === `--${name}`);
  if (asked === undefined) throw new UsageError('E_OPTION', `there is no device ${name}`);
  const { firstKey, cli, number } = asked;
  if (text === undefined && number === 'any') {
    throw new UsageError('E_OPTION', `${name} needs options`, `add ${name} ${cli?.value}`);
  }
  // With `vhost-user,type=...` the type is another one.
  const { type, options } = parseDevice(asked, text, { option: `add ${name}`, firstKey });
  return { [type.key]: type.number === 'any' ? [options] : options };
}

/** The devices of its option, and those that a machine has without one. */
function askedFor(
  type: MachineDeviceType,
  flags: DeviceFlags,
  console: Readonly<Record<string, unknown>>,
): AskedDevice[] {
  const { cli, number, firstKey, backends } = type;
  const option = cli?.option ?? '';
  const asked = [flags[option.slice(2)]].flat();
  // Commander's value of an option that has none is true.
  const isBare = cli?.bare === true && asked[0] === true;
  const texts = isBare ? [undefined] : asked.filter((text) => typeof text === 'string');
  if (texts.length > 0) return texts.map((text) => parseDevice(type, text, { option, firstKey }));
  const [backend] = backends;
  if (backend === undefined || number === 'any' || number === 'on-request') return [];
  return [{ type, backend, options: number === 'always' ? console : {} }];
}

/** Its own ring options override those for all devices. */
function withDefaults(
  { backend, options: own }: Omit<AskedDevice, 'type'>,
  { watch }: DeviceFlags,
  rings: readonly (RingOptions | undefined)[],
): object {
  const ring = Object.assign({}, ...rings, own.ring) as RingOptions;
  const hasRing = hasOption(backend.options, 'ring') && Object.keys(ring).length > 0;
  return {
    ...own,
    ...(watch === true && hasOption(backend.options, 'watch') ? { watch } : {}),
    ...(hasRing ? { ring } : {}),
  };
}

/** Ring options of all devices, and of those that have no option of their own for them. */
export type RingDefaults = Readonly<Record<string, RingOptions>>;

interface RingText {
  readonly device: string;
  readonly ring?: RingOptions;
}

const RING_TEXT = options<RingText>({ device: choice(['all', 'console', 'rng']) }, { ring: RING });
export const RING_KEYS: string = keysHelp(RING);

/** `--ring all|console|rng,KEYS`, several. @throws UsageError */
export function parseRings(texts: readonly string[]): RingDefaults {
  const rings: Record<string, RingOptions> = {};
  for (const text of texts) {
    const keys = splitKeys('--ring', text, 'device');
    const { device, ring } = optionsFromKeys<RingText>(RING_TEXT, keys, `--ring ${text}`);
    if (ring === undefined) {
      throw new UsageError('E_OPTION', `--ring ${text} names no feature`, `it takes ${RING_KEYS}`);
    }
    rings[device] = { ...rings[device], ...ring };
  }
  return rings;
}
