/** The page that shows a machine: complete on its own, and the part of it that is sent again as things change. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../host/package-folder.ts';
import type { QueueOrder } from '../machine/control/protocol.ts';
import type {
  InspectedDevice,
  InspectedQueue,
  InspectFilter,
  MachineInspection,
} from '../machine/inspect.ts';
import type { MachineCounters } from './activity.ts';
import { type DrawnFacts, drawMachine } from './drawing/draw-machine.ts';
import { DRAWING_STYLE, drawSvg } from './drawing/svg.ts';
import { functionLink, functionSection } from './function-section.ts';
import type { GuestDrivers } from './guest-drivers.ts';
import { iommuSection } from './iommu-section.ts';
import { element, escapeText, htmlDocument } from './markup.ts';
import { type Chain, type ChainBuffer, queueModel } from './queue-model.ts';
import { ringFigures } from './ring-figure.ts';
import { deviceEntry, drawingLink, isChosen, type View, viewLink } from './views.ts';

/** The inspected machine. */
export interface Inspector {
  readonly name: string;
  /** @throws NodeVmmError in one line, when the machine is gone */
  inspect(filter: InspectFilter): Promise<MachineInspection>;
  /** @throws NodeVmmError in one line, when it refuses */
  order(call: QueueOrder, device: string, queue: string): Promise<void>;
  /** What its guest says. */
  readonly drivers: GuestDrivers;
  /** @throws NodeVmmError in one line, when the machine is gone */
  counters(): Promise<MachineCounters>;
}

/** The selected queue; a function of the host has none. */
export interface Selection {
  readonly device: string;
  readonly queue: number;
}

const STATUS_BITS = [
  'ACKNOWLEDGE',
  'DRIVER',
  'FEATURES_OK',
  'DRIVER_OK',
  'DEVICE_NEEDS_RESET',
  'FAILED',
];
const SERVED = {
  vhost: 'The host kernel',
  'vhost-shadow': 'The host kernel, on copies,',
  'vhost-user': 'Another process',
  vdpa: 'A vDPA device of the host',
} as const;
const BYTES_A_ROW = 8;

/** The queue or function to show: the requested one, else the first. */
export function selectQueue(
  { devices, functions }: MachineInspection,
  device: string | undefined,
  queue: number | undefined,
): Selection | undefined {
  const chosen = functions.find(({ name }) => name === device);
  if (chosen !== undefined) return { device: chosen.name, queue: 0 };
  const found =
    devices.find(({ name }) => name === device) ??
    devices.find(({ queues }) => queues.some(({ enabled }) => enabled)) ??
    devices[0];
  if (found === undefined) {
    const [first] = functions;
    return first && { device: first.name, queue: 0 };
  }
  const index =
    found.queues[queue ?? -1]?.index ?? found.queues.find(({ enabled }) => enabled)?.index;
  return { device: found.name, queue: index ?? 0 };
}

/**
 * The page.
 * @param name of the machine
 * @param nonce that the page's script and style are allowed by (Content-Security-Policy)
 */
export function inspectPage(
  name: string,
  inspection: MachineInspection,
  selection: Selection | undefined,
  nonce: string,
  view: View = 'rings',
  facts: DrawnFacts = {},
): string {
  const live = inspectView(name, inspection, selection, view, facts);
  const body = [
    element('main', { id: 'live' }, live),
    element('p', { id: 'notice', role: 'status' }, ''),
    element('script', { nonce }, browserFile('client.js')),
  ];
  const style = browserFile('style.css') + DRAWING_STYLE;
  return htmlDocument(`${name}: nodevmm inspect`, style, body, nonce);
}

/** What the bundle makes of `src/inspect/browser`. */
function browserFile(name: string): string {
  return readFileSync(join(packageFolder, 'dist/bundle/browser', name), 'utf8');
}

/** What changes on the page. */
export function inspectView(
  name: string,
  inspection: MachineInspection,
  selection: Selection | undefined,
  view: View = 'rings',
  facts: DrawnFacts = {},
): string {
  const { state, devices, functions, iommu } = inspection;
  const device = devices.find((one) => one.name === selection?.device);
  const passed = functions.find((one) => one.name === selection?.device);
  const queue = device?.queues[selection?.queue ?? 0];
  const header = element(
    'header',
    {},
    element('h1', {}, `${element('small', {}, 'nodevmm inspect')} ${escapeText(name)}`) +
      element('span', { class: `state ${state === 'running' ? 'good' : ''}` }, escapeText(state)),
  );
  const nav = element(
    'nav',
    {},
    [
      element('section', {}, viewLink('?view=drawings', 'all drawings', view === 'drawings')),
      ...devices.map((one) => deviceLink(one, one === device ? view : undefined, queue)),
      ...functions.map((one) => functionLink(one, one === passed ? view : undefined)),
    ].join('\n'),
  );
  if (view !== 'rings') {
    const only = view === 'drawing' ? selection?.device : undefined;
    const drawings = drawMachine(inspection, facts, only);
    const exits = element('p', { class: 'soft' }, escapeText(facts.activity?.exits ?? ''));
    const article = element(
      'article',
      { class: 'drawings' },
      [exits, ...drawings.map((one) => drawSvg(one).svg)].join('\n'),
    );
    return [header, element('div', { class: 'columns wide' }, nav + article)].join('\n');
  }
  const rings = device === undefined || queue === undefined ? '' : queueSection(device, queue);
  const reach = device === undefined ? '' : reachOf(inspection, device.name);
  // What the IOMMU is for comes first; for a device behind it, its rings.
  const articles = device?.name === iommu?.device ? [reach, rings] : [rings, reach];
  const centre = reach === '' ? rings : element('div', {}, articles.join('\n'));
  const body = passed === undefined ? centre : functionSection(passed);
  const aside = device === undefined ? '' : element('aside', {}, deviceDetails(device));
  return [header, element('div', { class: 'columns' }, [nav, body, aside].join('\n'))].join('\n');
}

/** For the IOMMU and what is behind it. */
function reachOf({ iommu }: MachineInspection, device: string): string {
  if (iommu === undefined) return '';
  const concerned =
    device === iommu.device || iommu.endpoints.some((endpoint) => endpoint.device === device);
  return concerned ? element('article', {}, iommuSection(iommu, device)) : '';
}

/** @param view of the device, when it is the selected one */
function deviceLink(
  device: InspectedDevice,
  view: View | undefined,
  queue: InspectedQueue | undefined,
): string {
  const { name, deviceId, type = `device ID ${deviceId}`, queues } = device;
  const links = queues.map((one) => {
    const attributes = {
      href: `?device=${encodeURIComponent(name)}&queue=${one.index}`,
      class: one.enabled ? 'queue' : 'queue off',
      ...(view === 'rings' && one === queue ? { 'aria-current': 'true' } : {}),
    };
    const held = one.held === null ? '' : element('b', { class: 'held' }, 'held');
    return element('a', attributes, `${escapeText(one.name)} ${held}`);
  });
  const title = element('h2', {}, `${escapeText(name)} ${element('small', {}, escapeText(type))}`);
  const drawing = drawingLink(name, view);
  return deviceEntry(isChosen(view), title + drawing + links.join(''));
}

function queueSection(device: InspectedDevice, queue: InspectedQueue): string {
  const { format, size, vector, enabled } = queue;
  const facts = enabled
    ? [
        `${format}, ${size} entries`,
        vector === null ? 'no interrupt vector' : `vector ${vector}`,
        `descriptors ${queue.descriptorArea}`,
        `driver area ${queue.driverArea}`,
        `device area ${queue.deviceArea}`,
        ...(queue.ring?.kicksSuppressed === true ? ['kicks suppressed'] : []),
      ]
    : [`not enabled; up to ${size} entries`];
  const problem =
    queue.problem === undefined
      ? ''
      : element('p', { class: 'warning' }, escapeText(queue.problem));
  const parts = [
    element('h2', {}, `${escapeText(device.name)} ${escapeText(queue.name)}`),
    element('p', { class: 'soft' }, escapeText(facts.join(' · '))),
    gate(device, queue),
    problem,
    ringFigures(queue),
    enabled && queue.problem === undefined ? KEY + chainTable(queue) : '',
  ];
  return element('article', {}, parts.join('\n'));
}

const KEY = element(
  'p',
  { class: 'key' },
  [
    ['waiting', 'available'],
    ['taken', 'taken by the device'],
    ['driver', "driver's position"],
    ['device', 'device takes next'],
    ['used', 'device returns next'],
    ['event', 'notification requested here'],
  ]
    .map(([name, text]) =>
      element('span', {}, `${element('i', { class: `swatch ${name}` }, '')}${text}`),
    )
    .join(''),
);

function gate(
  { name, datapath, backend }: InspectedDevice,
  { index, held }: InspectedQueue,
): string {
  if (datapath !== 'userspace' && datapath !== 'vhost-shadow' && backend?.copies !== true) {
    const text = `${SERVED[datapath]} serves it (${datapath}): it cannot be held.`;
    return element('p', { class: 'soft' }, text);
  }
  const button = (call: string, text: string, on: boolean): string =>
    element('button', { name: 'call', value: call, ...(on ? {} : { disabled: '' }) }, text);
  const fields = [
    element('input', { type: 'hidden', name: 'device', value: name }),
    element('input', { type: 'hidden', name: 'queue', value: index }),
    button('hold', 'Hold', held === null),
    button('step', 'Step', true),
    button('release', 'Release', held !== null),
    element('span', { class: 'soft' }, heldText(held)),
  ];
  return element('form', { method: 'post', action: 'order', class: 'gate' }, fields.join(''));
}

function heldText(held: number | null): string {
  if (held === null) return 'runs freely';
  return held === 0 ? 'held: the device takes nothing' : 'held: the device may take one more';
}

function chainTable(queue: InspectedQueue): string {
  const chains = queueModel(queue)?.chains ?? [];
  const rows = chains.map(({ stage, id, buffers }: Chain) =>
    element(
      'tr',
      {},
      [
        element('td', {}, element('i', { class: `swatch ${stage}` }, '') + stage),
        element('td', {}, String(id)),
        element('td', {}, buffers.map(bufferText).join(' ')),
      ].join(''),
    ),
  );
  if (rows.length === 0) return element('p', { class: 'soft' }, 'Nothing is in flight.');
  const heads = ['', 'id', 'buffers'].map((text) => element('th', {}, text)).join('');
  return element('table', {}, element('tbody', {}, element('tr', {}, heads) + rows.join('')));
}

function bufferText({ addr, len, kind }: ChainBuffer): string {
  const arrow = { readable: '→', writable: '←', indirect: '⇢' }[kind];
  return element('code', { title: kind }, `${arrow}&#160;${len}&#160;@&#160;${escapeText(addr)}`);
}

function deviceDetails(device: InspectedDevice): string {
  const { datapath, thread, poll, place, deviceId, statusBits, features, config } = device;
  const own = `userspace, ${thread === 'main' ? 'main thread' : 'own thread'}${poll === 'off' ? '' : `, poll=${poll}`}`;
  const served = datapath === 'userspace' ? own : `${SERVED[datapath]} (${datapath})`;
  const facts = [
    ['place', place ?? 'not plugged in'],
    ['device ID', String(deviceId)],
    ['served by', served],
  ].map(([name = '', text = '']) => element('dt', {}, name) + element('dd', {}, escapeText(text)));
  const bits = STATUS_BITS.map((name) =>
    element(
      'li',
      {
        class: statusBits.includes(name)
          ? name === 'FAILED' || name === 'DEVICE_NEEDS_RESET'
            ? 'bad'
            : 'on'
          : '',
      },
      name,
    ),
  );
  const list = features.map(({ bit, name = `bit ${bit}`, negotiated }) =>
    element(
      'li',
      { class: negotiated ? 'on' : '' },
      `${element('span', { class: 'bit' }, String(bit))} ${escapeText(name)}`,
    ),
  );
  return [
    element('h2', {}, escapeText(device.name)),
    element('dl', {}, facts.join('')),
    element('h3', {}, 'Status'),
    element('ul', { class: 'bits' }, bits.join('')),
    element('h3', {}, 'Features'),
    element('p', { class: 'soft' }, 'offered; accepted ones are highlighted'),
    element('ul', { class: 'bits column' }, list.join('')),
    element('h3', {}, 'Configuration space'),
    element('pre', {}, escapeText(hexRows(config))),
  ].join('\n');
}

function hexRows(hex: string): string {
  if (hex === '') return 'none';
  const bytes = hex.match(/../g) ?? [];
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += BYTES_A_ROW) {
    const part = bytes.slice(at, at + BYTES_A_ROW);
    rows.push(`${at.toString(16).padStart(3, '0')}  ${part.join(' ')}`);
  }
  return rows.join('\n');
}
