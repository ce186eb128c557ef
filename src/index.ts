/** nodevmm: boots real Linux guests on KVM, from code. */
export type { ExecOptions, ExecResult } from './agent/client.ts';
export type { CommandExit, GuestProcess, SpawnOptions } from './agent/command.ts';
export type { BootProtocol, EntryProtocol } from './boot/boot.ts';
export type { SmbiosOptions } from './boot/smbios.ts';
export { HostError, InternalError, NodeVmmError, PeerError, UsageError } from './host/errors.ts';
export type { DatapathName } from './machine/devices/queue-service.ts';
export type {
  InspectedDevice,
  InspectedFeature,
  InspectedQueue,
  InspectFilter,
  MachineInspection,
} from './machine/inspect.ts';
export type { RuleBreach } from './machine/machine-observer.ts';
export type { MachineExit, MachineOptions } from './machine/options.ts';
export type {
  OwnDeviceOptions,
  VhostUserDeviceOptions,
} from './machine/user-devices/user-devices.ts';
export type { MachineState, VirtualMachineEvents } from './machine/virtual-machine.ts';
export { VirtualMachine } from './machine/virtual-machine.ts';
export type { DiskOptions } from './virtio/device/blk/blk-type.ts';
export type { ConsoleOptions } from './virtio/device/console/console.ts';
export type { FileSystemOptions, VhostUserFsOptions } from './virtio/device/fs/fs-type.ts';
export type { NetOptions, VhostUserNetOptions } from './virtio/device/net/net-type.ts';
export type { EntropyOptions } from './virtio/device/rng/rng.ts';
export type { VhostUserOptions, VhostUserSocket } from './virtio/device/vhost-user-type.ts';
export type { VsockOptions } from './virtio/device/vsock/vsock-type.ts';
export type {
  CarriedOptions,
  MachineDeviceOptions,
  RingOptions,
  TransportName,
  VhostMode,
} from './virtio/device-type.ts';
export type { Breach } from './virtio/observe/observation.ts';
export type { TraceSummary } from './virtio/observe/trace/trace-collector.ts';
export type {
  EventSuppression,
  PackedDescriptor,
  PackedSnapshot,
  RingSnapshot,
  SplitDescriptor,
  SplitSnapshot,
} from './virtio/queue/ring-snapshot.ts';
export type { VringState } from './virtio/queue/virtqueue.ts';
