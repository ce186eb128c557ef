/** PCI Local Bus 3.0 chapter 6: configuration space of a type 0 function, and MSI-X (§6.8.2). */
import { struct } from './struct.ts';

export const pci_type0_header = struct({
  vendor_id: 2,
  device_id: 2,
  command: 2,
  status: 2,
  revision_id: 1,
  class_code: [1, 3],
  cache_line_size: 1,
  latency_timer: 1,
  header_type: 1,
  bist: 1,
  base_address: [4, 6],
  cardbus_cis: 4,
  subsystem_vendor_id: 2,
  subsystem_id: 2,
  expansion_rom: 4,
  capabilities_pointer: 1,
  reserved: [1, 7],
  interrupt_line: 1,
  interrupt_pin: 1,
  min_gnt: 1,
  max_lat: 1,
});

export const PCI_COMMAND_IO = 0x1;
export const PCI_COMMAND_MEMORY = 0x2;
export const PCI_COMMAND_MASTER = 0x4;
export const PCI_COMMAND_INTX_DISABLE = 0x400;
export const PCI_STATUS_INTERRUPT = 0x08;
export const PCI_STATUS_CAP_LIST = 0x10;

export const PCI_BASE_ADDRESS_SPACE_IO = 0x01;
export const PCI_BASE_ADDRESS_MEM_TYPE_64 = 0x04;
export const PCI_BASE_ADDRESS_MEM_PREFETCH = 0x08;

export const PCI_CAP_ID_PM = 0x01;
export const PCI_CAP_ID_MSI = 0x05;
export const PCI_CAP_ID_VNDR = 0x09;
export const PCI_CAP_ID_SSVID = 0x0d;
export const PCI_CAP_ID_EXP = 0x10;
export const PCI_CAP_ID_MSIX = 0x11;
export const PCI_CAP_ID_SATA = 0x12;
export const PCI_EXT_CAP_ID_DSN = 0x03;
export const PCI_EXT_CAP_ID_VNDR = 0x0b;
export const PCI_EXT_CAP_ID_DVSEC = 0x23;
export const PCI_CAP_ID_AF = 0x13;

/** First byte after the header, where capabilities start. */
export const PCI_STD_HEADER_SIZEOF = 64;
export const PCI_CFG_SPACE_SIZE = 256;
export const PCI_CFG_SPACE_EXP_SIZE = 4096;

/** Message Control of MSI (§6.8.1.3). */
export const PCI_MSI_FLAGS_ENABLE = 0x01;
export const PCI_MSI_FLAGS_QMASK = 0x0e;
export const PCI_MSI_FLAGS_QSIZE = 0x70;
export const PCI_MSI_FLAGS_64BIT = 0x80;
export const PCI_MSI_FLAGS_MASKBIT = 0x100;

/** Message Control of MSI-X (§6.8.2.3). */
export const PCI_MSIX_FLAGS_QSIZE = 0x7ff;
export const PCI_MSIX_FLAGS_ENABLE = 0x8000;
export const PCI_MSIX_FLAGS_MASKALL = 0x4000;
export const PCI_MSIX_ENTRY_SIZE = 16;
export const PCI_MSIX_ENTRY_CTRL_MASKBIT = 1;
