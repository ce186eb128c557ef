/** The drawing of a virtio device, from what is known of it: its driver on the left, what serves it on the right. */
import { DEVICE_NEEDS_RESET, DRIVER } from '../../abi/virtio-pci.ts';
import type { InspectedDevice, InspectedQueue } from '../../machine/inspect.ts';
import type { DeviceActivity } from '../activity.ts';
import type { GuestDriver } from '../guest-drivers.ts';
import type { Box, Drawing, Space, Step } from './drawing.ts';
import { driverSide } from './driver-side.ts';

/** Rings whose addresses are listed. */
const LISTED = 2;

/**
 * Draws one.
 * @param driver undefined when it is not known
 * @param activity of its queues, when they are traced
 */
export function drawDevice(
  device: InspectedDevice,
  driver?: GuestDriver,
  activity?: DeviceActivity,
): Drawing {
  const { name, type = `device ID ${device.deviceId}`, place = 'not plugged in' } = device;
  const hasDriver = (device.status & DRIVER) !== 0;
  const left = driverSide(hasDriver, driver);
  const right = SERVERS[device.datapath](device, left.space, activity);
  // Without a driver nobody notifies, and nobody is notified.
  const notifications = hasDriver
    ? [...right.kick, ...right.interrupt, ...(right.interrupt.length > 0 ? left.interrupt : [])]
    : [];
  return {
    title: `${name}: ${type}, ${place}, ${SERVED_BY[device.datapath]}`,
    boxes: [...left.boxes, ...right.boxes],
    steps: [
      ringStep(device, left.space, right.space),
      ...right.control,
      ...left.data,
      ...right.data,
      ...notifications,
    ],
    notes: [...left.notes, ...right.notes, ...queueNotes(device)],
  };
}

const SERVED_BY = {
  userspace: 'served in nodevmm',
  vhost: 'served by vhost in the host kernel',
  'vhost-shadow': 'served by vhost in the host kernel, on copies',
  'vhost-user': 'served by another process (vhost-user)',
  vdpa: 'served by a vDPA device',
} as const;

interface ServerSide {
  /** Where the device's side of the rings is. */
  readonly space: Space;
  readonly boxes: readonly Box[];
  readonly control: readonly Step[];
  readonly data: readonly Step[];
  readonly kick: readonly Step[];
  readonly interrupt: readonly Step[];
  readonly notes: readonly string[];
}

/** @param driver where it is */
type Draw = (device: InspectedDevice, driver: Space, activity?: DeviceActivity) => ServerSide;

const VCPUS: Box = { space: 'vmm', title: 'vCPU threads' };
const KVM: Box = { space: 'hostKernel', title: 'KVM' };
const EVENTFD = 'eventfd';

const registers = (from: Space): Step => ({
  path: 'control',
  from,
  to: 'vmm',
  text: 'registers',
});

/** Adds how often it happens. */
const often = (text: string, count: string | undefined): string =>
  count === undefined ? text : `${text}; ${count}`;

const inProcess: Draw = (device, from, activity) => {
  const { name, thread, threadState, poll, backend } = device;
  const worker = thread === 'worker';
  const who = worker ? `thread ${name}` : 'main thread';
  const calls = backend?.calls;
  const behind: Box[] =
    backend === undefined || calls === undefined
      ? []
      : [{ space: 'hostKernel', title: backend.name }];
  const doing = threadState === undefined ? {} : { detail: threadState };
  const wait = worker ? 'epoll_wait' : 'the event loop';
  return {
    space: 'vmm',
    boxes: [VCPUS, { space: 'vmm', title: who, ...doing }, KVM, ...behind],
    control: [registers(from)],
    data: [
      {
        path: 'data',
        from: 'vmm',
        ...(calls === undefined ? { to: 'vmm' } : { to: 'hostKernel', both: true }),
        text: often(calls ?? backend?.name ?? 'by the device’s own code', activity?.chains),
      },
    ],
    kick:
      poll === 'always'
        ? [{ path: 'kick', from: 'vmm', to: 'vmm', text: 'none: the thread looks at the rings' }]
        : kickSteps(device, from, {
            path: 'kick',
            from: 'hostKernel',
            to: 'vmm',
            text: often(
              `${EVENTFD}, ${wait}${poll === 'adaptive' ? ', unless it polls' : ''}`,
              activity?.kicks,
            ),
          }),
    interrupt: interruptSteps(device, [
      {
        path: 'interrupt',
        from: 'vmm',
        to: 'hostKernel',
        text: often(EVENTFD, activity?.interrupts),
      },
    ]),
    notes: [],
  };
};

const vhost: Draw = (device, from) => {
  const { backend } = device;
  const boxes: Box[] = [VCPUS, KVM, { space: 'hostKernel', title: 'vhost worker' }];
  if (backend !== undefined) boxes.push({ space: 'hostKernel', title: backend.name });
  const kernel = { from: 'hostKernel', to: 'hostKernel' } as const;
  return {
    space: 'hostKernel',
    boxes,
    control: [
      registers(from),
      { path: 'control', from: 'vmm', to: 'hostKernel', text: 'VHOST_SET_VRING_*' },
    ],
    data: [{ path: 'data', ...kernel, text: `copied to and from ${backend?.name ?? 'sockets'}` }],
    kick: kickSteps(device, from, {
      path: 'kick',
      ...kernel,
      text: `${EVENTFD} wakes the vhost worker`,
    }),
    interrupt: interruptSteps(device, []),
    notes: ownQueueNotes(device),
  };
};

const vhostUser: Draw = (device, from, activity) => {
  const { backend } = device;
  const gone = backend?.gone === true;
  if (backend?.copies === true) return copied(device, from, activity);
  return {
    space: 'process',
    boxes: [
      VCPUS,
      { space: 'process', title: 'backend', detail: gone ? 'gone' : (backend?.name ?? '') },
      KVM,
    ],
    control: [
      registers(from),
      { path: 'control', from: 'vmm', to: 'process', text: 'messages on a unix socket' },
    ],
    data: [],
    kick: kickSteps(device, from, {
      path: 'kick',
      from: 'hostKernel',
      to: 'process',
      text: EVENTFD,
    }),
    interrupt: interruptSteps(device, [
      { path: 'interrupt', from: 'process', to: 'hostKernel', text: EVENTFD },
    ]),
    notes: [
      gone ? 'The backend has left.' : 'What the backend does with the data is not known here.',
      ...ownQueueNotes(device),
    ],
  };
};

/** A thread of this process between the driver's rings and those of the backend or of vhost. */
const copied: Draw = (device, from, activity) => {
  const { name, backend, datapath } = device;
  const gone = backend?.gone === true;
  const isVhost = datapath === 'vhost-shadow';
  const there = isVhost ? 'hostKernel' : 'process';
  const server: readonly Box[] = isVhost
    ? [
        { space: there, title: 'vhost worker' },
        ...(backend === undefined ? [] : [{ space: there, title: backend.name } as const]),
      ]
    : [{ space: there, title: 'backend', detail: gone ? 'gone' : (backend?.name ?? '') }];
  const interrupt = interruptSteps(device, [
    {
      path: 'interrupt',
      from: 'vmm',
      to: 'hostKernel',
      text: often(EVENTFD, activity?.interrupts),
    },
  ]);
  return {
    space: 'vmm',
    boxes: [VCPUS, { space: 'vmm', title: `thread ${name}` }, ...server, KVM],
    control: [
      registers(from),
      {
        path: 'control',
        from: 'vmm',
        to: there,
        text: isVhost ? 'VHOST_SET_VRING_*' : 'messages on a unix socket',
      },
    ],
    data: [
      {
        path: 'data',
        from: 'vmm',
        to: there,
        both: true,
        memory: true,
        text: often('copies, in rings of their own', activity?.chains),
      },
    ],
    kick: [
      ...kickSteps(device, from, {
        path: 'kick',
        from: 'hostKernel',
        to: 'vmm',
        text: often(`${EVENTFD}, epoll_wait`, activity?.kicks),
      }),
      { path: 'kick', from: 'vmm', to: there, text: EVENTFD },
    ],
    interrupt:
      interrupt.length === 0
        ? []
        : [{ path: 'interrupt', from: there, to: 'vmm', text: EVENTFD }, ...interrupt],
    notes: [
      gone
        ? 'The backend has left.'
        : `${isVhost ? 'vhost' : 'The backend'} gets nothing of the guest’s memory but these copies.`,
    ],
  };
};

const vdpa: Draw = (device, from) => {
  const { backend } = device;
  const parent: Space =
    backend?.place === 'process'
      ? 'process'
      : backend?.place === 'hardware'
        ? 'hardware'
        : 'hostKernel';
  const inKernel = parent === 'hostKernel';
  const title = { process: 'VDUSE server', hardware: 'virtio device', hostKernel: 'vDPA parent' };
  const toParent = { from: 'hostKernel', to: parent } as const;
  return {
    space: parent,
    boxes: [
      VCPUS,
      KVM,
      { space: 'hostKernel', title: 'vhost-vdpa', detail: backend?.name ?? '' },
      { space: parent, title: title[parent] },
    ],
    control: [
      registers(from),
      { path: 'control', from: 'vmm', to: 'hostKernel', text: 'VHOST_VDPA_*, VHOST_SET_VRING_*' },
      ...(inKernel
        ? []
        : [{ path: 'control' as const, ...toParent, text: 'by the parent’s driver' }]),
    ],
    data: [],
    kick: kickSteps(device, from, {
      path: 'kick',
      ...toParent,
      text: parent === 'hardware' ? 'doorbell, by the parent’s driver' : EVENTFD,
    }),
    interrupt: interruptSteps(
      device,
      inKernel
        ? []
        : [
            {
              path: 'interrupt',
              from: parent,
              to: 'hostKernel',
              text: parent === 'hardware' ? 'MSI-X of the host' : 'VDUSE_VQ_INJECT_IRQ',
            },
          ],
    ),
    notes:
      backend?.place === undefined
        ? ['Where the parent serves is not known: drawn in the host kernel.']
        : ['What the parent does with the data is not known here.'],
  };
};

const SERVERS: Readonly<Record<InspectedDevice['datapath'], Draw>> = {
  userspace: inProcess,
  vhost,
  'vhost-shadow': copied,
  'vhost-user': vhostUser,
  vdpa,
};

function ringStep({ queues }: InspectedDevice, from: Space, to: Space): Step {
  const enabled = queues.filter((queue) => queue.enabled);
  const [first] = enabled;
  const text =
    first === undefined
      ? `none of ${queues.length} enabled`
      : `${countText(enabled.length, 'queue')}, ${first.format}: ${placesOf(enabled)}`;
  return { path: 'rings', from, to, both: true, memory: true, text };
}

function placesOf(queues: readonly InspectedQueue[]): string {
  const listed = queues
    .slice(0, LISTED)
    .map(({ name, descriptorArea }) => `${name} at ${descriptorArea}`);
  const more = queues.length - listed.length;
  return [...listed, ...(more > 0 ? [`${more} more`] : [])].join(', ');
}

/** @param wake what the eventfd leads to */
function kickSteps({ notify, place }: InspectedDevice, from: Space, wake: Step): Step[] {
  const usable = from === 'guestUser' ? notify.filter(({ space }) => space === 'memory') : notify;
  const [used] = usable.length > 0 ? usable : notify;
  if (used === undefined || place === undefined) return [];
  const where = `${used.space} ${used.address}`;
  if (used.by === 'ioeventfd') {
    return [{ path: 'kick', from, to: 'hostKernel', text: `${where}, ioeventfd` }, wake];
  }
  if (used.by === 'hardware') {
    return [{ path: 'kick', from, to: 'hardware', text: `${where}, memory slots of KVM` }];
  }
  return [
    { path: 'kick', from, to: 'vmm', text: `${where}, by a vCPU thread` },
    { path: 'kick', from: 'vmm', to: 'hostKernel', text: EVENTFD },
    wake,
  ];
}

/** @param signal steps until an eventfd reaches KVM */
function interruptSteps({ interrupt, queues }: InspectedDevice, signal: readonly Step[]): Step[] {
  if (interrupt === undefined) return [];
  const enter = { path: 'interrupt', from: 'hostKernel', to: 'guestKernel' } as const;
  if (interrupt === 'msi-x') {
    const vectors = queues.flatMap(({ enabled, vector }) =>
      enabled && vector !== null ? [vector] : [],
    );
    const all = [...new Set(vectors)].sort((a, b) => a - b);
    if (all.length === 0) return [];
    return [...signal, { ...enter, text: `irqfd, MSI-X ${numbersText('vector', all)}` }];
  }
  const name = interrupt === 'intx' ? 'INTx' : 'interrupt line';
  return [
    ...signal,
    { path: 'interrupt', from: 'hostKernel', to: 'vmm', text: `${EVENTFD}, the main thread` },
    { path: 'interrupt', from: 'vmm', to: 'hostKernel', text: 'KVM_IRQ_LINE' },
    { ...enter, text: name },
  ];
}

/** Queues that stay with nodevmm: it knows their position. */
function ownQueueNotes({ queues }: InspectedDevice): string[] {
  const own = queues.filter(({ enabled, state }) => enabled && state !== undefined);
  if (own.length === 0) return [];
  return [`nodevmm itself serves ${own.map(({ name }) => name).join(', ')}.`];
}

function queueNotes({ queues, interrupt, status }: InspectedDevice): string[] {
  const notes: string[] = [];
  const held = queues.filter((queue) => queue.held !== null);
  if (held.length > 0) notes.push(`Held: ${held.map(({ name }) => name).join(', ')}.`);
  const enabled = queues.filter((queue) => queue.enabled);
  const silent = enabled.filter(({ vector }) => vector === null);
  if (interrupt === 'msi-x' && silent.length > 0) {
    const which =
      silent.length === enabled.length ? 'any queue' : silent.map(({ name }) => name).join(', ');
    notes.push(`The driver has no interrupt for ${which}.`);
  }
  if ((status & DEVICE_NEEDS_RESET) !== 0)
    notes.push('The device has stopped and asks for a reset.');
  return notes;
}

function countText(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** `vectors 1 to 3, 5`. */
function numbersText(what: string, numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && last[1] + 1 === number) last[1] = number;
    else runs.push([number, number]);
  }
  const parts = runs.map(([from, to]) => {
    if (from === to) return `${from}`;
    return to === from + 1 ? `${from}, ${to}` : `${from} to ${to}`;
  });
  return `${what}${numbers.length === 1 ? '' : 's'} ${parts.join(', ')}`;
}
