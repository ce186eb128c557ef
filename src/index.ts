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
export type {
  CarriedOptions,
  DiskOptions,
  FileSystemOptions,
  MachineExit,
  MachineOptions,
  NetOptions,
  OwnDeviceOptions,
  RingOptions,
  TransportName,
  VhostMode,
  VhostUserDeviceOptions,
  VhostUserFsOptions,
  VhostUserNetOptions,
  VhostUserOptions,
  VhostUserSocket,
  VsockOptions,
} from './machine/options.ts';
export type { MachineState, VirtualMachineEvents } from './machine/virtual-machine.ts';
export { VirtualMachine } from './machine/virtual-machine.ts';
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
