/**
 * nodevmm: boots real Linux guests on KVM, from code.
 * @module nodevmm
 */
export type { CommandExit, GuestProcess } from './agent/command.ts';
export type {
  CommandLine,
  ExecOptions,
  SpawnOptions,
  TerminalSize,
} from './agent/command-options.ts';
export type { ExecResult, PartialOutput } from './agent/exec.ts';
export type { ForwardedPorts, ForwardTarget, PortForward } from './agent/forward.ts';
export { GuestSystemError, type SystemErrorDetails } from './agent/guest-error.ts';
export type { GuestReadStream, GuestWriteStream } from './agent/guest-file-streams.ts';
export type {
  AbortOptions,
  CopyOutOptions,
  GuestFileChange,
  GuestFiles,
  ReadFileOptions,
  ReadStreamOptions,
  WriteFileOptions,
  WriteFlag,
  WriteStreamOptions,
} from './agent/guest-files.ts';
export type { GuestDirent, GuestStats } from './agent/guest-stats.ts';
export type { BootProtocol, EntryProtocol } from './boot/boot.ts';
export type { SmbiosOptions } from './boot/smbios.ts';
export type { Guest, GuestBuildOptions } from './guest/guests.ts';
export { buildGuest } from './guest/guests.ts';
export type { KernelSeries, Progress } from './guest/kernel.ts';
export type { GuestImageName, GuestName } from './guest/recipe.ts';
export { HostError, InternalError, NodeVmmError, PeerError, UsageError } from './host/errors.ts';
export type { BalloonState, BalloonStatistics, MachineBalloon } from './machine/balloon.ts';
export { connectMachine } from './machine/control/remote-machine.ts';
export type { DatapathName } from './machine/devices/queue-service.ts';
export type { DoctorRow } from './machine/doctor.ts';
export { doctor } from './machine/doctor.ts';
export type { RemovalOptions } from './machine/hotplug.ts';
export type {
  InspectedDevice,
  InspectedFeature,
  InspectedNotify,
  InspectedQueue,
  InspectFilter,
  MachineInspection,
} from './machine/inspect.ts';
export type {
  InspectedEndpoint,
  InspectedFault,
  InspectedIommu,
  InspectedMapping,
} from './machine/inspect-iommu.ts';
export type {
  DroppedOutput,
  MachineMetrics,
  MachineState,
  VirtualMachineEvents,
} from './machine/machine.ts';
export type { RuleBreach } from './machine/machine-observer.ts';
export type { MemoryState } from './machine/memory-size.ts';
export type { MachineExit, MachineOptions } from './machine/options.ts';
export type {
  DefinitionOptions,
  FileOptions,
  ObjectOptions,
  OwnDeviceOptions,
  VhostUserDeviceOptions,
} from './machine/user-devices/user-devices.ts';
export { VirtualMachine } from './machine/virtual-machine.ts';
export type { VfioOptions } from './vfio/device.ts';
export type { IommufdMode } from './vfio/dma-spaces.ts';
export type {
  InspectedArea,
  InspectedBar,
  InspectedFunction,
  InspectedInterrupts,
} from './vfio/inspected-function.ts';
export type { BalloonOptions } from './virtio/device/balloon/balloon.ts';
export type { GuestMemoryStatistics } from './virtio/device/balloon/balloon-statistics.ts';
export type { DiskOptions } from './virtio/device/blk/blk-type.ts';
export type { ConsoleOptions } from './virtio/device/console/console.ts';
export type { FileSystemOptions, VhostUserFsOptions } from './virtio/device/fs/fs-type.ts';
export type { XattrMode } from './virtio/device/fs/xattr-names.ts';
export type { IommuOptions } from './virtio/device/iommu/iommu.ts';
export type { MemoryDeviceOptions } from './virtio/device/mem/mem.ts';
export type { NetOptions, VhostUserNetOptions } from './virtio/device/net/net-type.ts';
export type { PmemOptions } from './virtio/device/pmem/pmem.ts';
export type { EntropyOptions } from './virtio/device/rng/rng.ts';
export type { VdpaOptions } from './virtio/device/vdpa-type.ts';
export type { VhostUserOptions, VhostUserSocket } from './virtio/device/vhost-user-type.ts';
export type { VsockOptions } from './virtio/device/vsock/vsock-type.ts';
export type { BackendFacts } from './virtio/device.ts';
export type {
  CarriedOptions,
  IommuMode,
  MachineDeviceOptions,
  PolledOptions,
  PollMode,
  RingOptions,
  TransportName,
  VhostMode,
} from './virtio/device-type.ts';
export type { ShareMode } from './virtio/frontend-device.ts';
export type { Breach } from './virtio/observe/observation.ts';
export type { TracedDevice } from './virtio/observe/trace/chrome-trace.ts';
export type { TraceSummary } from './virtio/observe/trace/trace-collector.ts';
export type {
  ExitSummary,
  LatencySummary,
  QueueSummary,
} from './virtio/observe/trace/trace-statistics.ts';
export type {
  EventSuppression,
  PackedDescriptor,
  PackedSnapshot,
  RingSnapshot,
  SplitDescriptor,
  SplitSnapshot,
} from './virtio/queue/ring-snapshot.ts';
export type { VringState } from './virtio/queue/virtqueue.ts';
export type { WatchdogAction, WatchdogOptions } from './watchdog/watchdog-type.ts';
