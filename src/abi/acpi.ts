/** ACPI 6.5 table layouts and constants, as far as the machine's tables need them. */
import { struct } from './struct.ts';

/** §5.2.5.3. */
export const RSDP = struct(
  {
    Signature: [1, 8],
    Checksum: 1,
    OEMID: [1, 6],
    Revision: 1,
    RsdtAddress: 4,
    Length: 4,
    XsdtAddress: 8,
    ExtendedChecksum: 1,
    Reserved: [1, 3],
  },
  true,
);
export const RSDP_SIGNATURE = 'RSD PTR ';
export const RSDP_REVISION = 2;
/** `Checksum` covers this much, the ACPI 1.0 structure. */
export const RSDP_V1_LENGTH = 20;

/** §5.2.6, the header of every other table. */
export const DESCRIPTION_HEADER = struct(
  {
    Signature: [1, 4],
    Length: 4,
    Revision: 1,
    Checksum: 1,
    OEMID: [1, 6],
    OEMTableID: [1, 8],
    OEMRevision: 4,
    CreatorID: 4,
    CreatorRevision: 4,
  },
  true,
);

/** §5.2.3.2. */
export const GENERIC_ADDRESS = struct(
  { AddressSpaceID: 1, RegisterBitWidth: 1, RegisterBitOffset: 1, AccessSize: 1, Address: 8 },
  true,
);
export const ADDRESS_SPACE_SYSTEM_IO = 1;
export const ACCESS_SIZE_BYTE = 1;
export const ACCESS_SIZE_WORD = 2;

/** §5.2.9, only the fields that are set; offsets count from the table's start. */
export const FADT_FIRMWARE_CTRL = 36;
export const FADT_SCI_INT = 46;
export const FADT_PM1A_EVT_BLK = 56;
export const FADT_PM1A_CNT_BLK = 64;
export const FADT_PM1_EVT_LEN = 88;
export const FADT_PM1_CNT_LEN = 89;
export const FADT_P_LVL2_LAT = 96;
export const FADT_P_LVL3_LAT = 98;
export const FADT_CENTURY = 108;
export const FADT_IAPC_BOOT_ARCH = 109;
export const FADT_FLAGS = 112;
export const FADT_RESET_REG = 116;
export const FADT_RESET_VALUE = 128;
export const FADT_MINOR_VERSION = 131;
export const FADT_X_DSDT = 140;
export const FADT_X_PM1A_EVT_BLK = 148;
export const FADT_X_PM1A_CNT_BLK = 172;
export const FADT_HYPERVISOR_VENDOR_IDENTITY = 268;
export const FADT_LENGTH = 276;
export const FADT_REVISION = 6;
/** Latencies of more than 100 and 1000 µs: there is no C2 and no C3. */
export const FADT_NO_C2 = 101;
export const FADT_NO_C3 = 1001;
/** Table 5.10, "Fixed ACPI Description Table Fixed Feature Flags". */
export const FADT_WBINVD = 1 << 0;
export const FADT_PROC_C1 = 1 << 2;
export const FADT_RESET_REG_SUP = 1 << 10;
export const FADT_HEADLESS = 1 << 12;
/** Table 5.11, "IA-PC Boot Architecture Flags". */
export const IAPC_VGA_NOT_PRESENT = 1 << 2;
export const IAPC_PCIE_ASPM_CONTROLS = 1 << 4;

/** §5.2.10, Firmware ACPI Control Structure; it has no header. */
export const FACS = struct(
  {
    Signature: [1, 4],
    Length: 4,
    HardwareSignature: 4,
    FirmwareWakingVector: 4,
    GlobalLock: 4,
    Flags: 4,
    XFirmwareWakingVector: 8,
    Version: 1,
    Reserved: [1, 3],
    OSPMFlags: 4,
    Reserved2: [1, 24],
  },
  true,
);
export const FACS_SIGNATURE = 'FACS';
export const FACS_VERSION = 2;

/** §5.2.12, Multiple APIC Description Table: its revision, and types of its entries. */
export const MADT_REVISION = 5;
export const MADT_PROCESSOR_LOCAL_APIC = 0;
export const MADT_IO_APIC = 1;
export const MADT_INTERRUPT_SOURCE_OVERRIDE = 2;
export const MADT_LOCAL_APIC_NMI = 4;
export const LOCAL_APIC_ENABLED = 1;
export const LOCAL_APIC_ONLINE_CAPABLE = 2;
/** Table 5.20: there are 8259s as well. */
export const MADT_PCAT_COMPAT = 1;
/** Table 5.26, "MPS INTI Flags": active high; edge or level triggered. */
export const MPS_INTI_HIGH_EDGE = 0b0101;
export const MPS_INTI_HIGH_LEVEL = 0b1101;

/** "Windows ACPI Emulated Devices Table": timers that need no workarounds. */
export const WAET_RTC_GOOD = 1 << 0;
export const WAET_PM_TIMER_GOOD = 1 << 1;

/** §5.2.34, "Virtual I/O Translation Table": node count and offset behind the header, and node types. */
export const VIOT_HEADER_SIZE = 12;
export const VIOT_NODE_PCI_RANGE = 1;
export const VIOT_NODE_MMIO_ENDPOINT = 2;
export const VIOT_NODE_VIRTIO_IOMMU_PCI = 3;
export const VIOT_NODE_VIRTIO_IOMMU_MMIO = 4;
