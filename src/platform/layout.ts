/** The machine's fixed addresses, ports and interrupt lines: as ACPI describes and the bus serves them. */

/** 32-bit window for PCI BARs, right above low RAM. */
export const PCI_MMIO32_BASE = 0xc000_0000;
export const PCI_MMIO32_LIMIT = 0xe000_0000;
/** PCIe enhanced configuration space (ECAM) of bus 0: 1 MiB. */
export const PCI_ECAM_BASE = 0xe000_0000;
export const PCI_ECAM_SIZE = 0x10_0000;
/** Windows of virtio devices in memory, 8 KiB each. */
export const VIRTIO_MMIO_BASE = 0xf000_0000;
export const VIRTIO_MMIO_WINDOWS = 32;
export const IOAPIC_ADDRESS = 0xfec0_0000;
export const LOCAL_APIC_ADDRESS = 0xfee0_0000;
/** Intel hosts want three pages for real mode, and one for the identity map, out of the guest's RAM. */
export const KVM_TSS_ADDRESS = 0xfffb_d000;
export const KVM_IDENTITY_MAP_ADDRESS = 0xfffb_c000;

/** PCI configuration mechanism #1. */
export const PCI_CONFIG_ADDRESS_PORT = 0xcf8;

/** First serial port: 8250 with the interrupt that PCs give it. */
export const COM1_PORT = 0x3f8;
export const COM1_GSI = 4;
export const CMOS_PORT = 0x70;
export const RTC_GSI = 8;

/** ACPI 6.5 §4.8.3.1, §4.8.3.2: the PM1 status and enable registers, and the control register, of two bytes each. */
export const PM1_EVENT_PORT = 0x600;
export const PM1_EVENT_SIZE = 4;
export const PM1_CONTROL_PORT = 0x604;
export const PM1_CONTROL_SIZE = 2;
/** The interrupt of fixed hardware events, the one that PCs have: level triggered, active high. */
export const SCI_GSI = 9;
/** SLP_TYP of the sleep states S3 and S5. */
export const SLEEP_TYPE_S3 = 1;
export const SLEEP_TYPE_S5 = 5;
/** FADT RESET_REG, and the value that resets; one byte. */
export const RESET_PORT = 0x608;
export const RESET_VALUE = 0x01;
/** Generic Event Device (ACPI 6.5 §5.6.9): one byte with the events that wait, cleared by the read. */
export const GED_PORT = 0x60c;
export const GED_GSI = 5;
/** Hotplug of PCI bus 0: three registers of 32 bits (`HotplugRegisters`). */
export const PCI_HOTPLUG_PORT = 0x620;
/** Hotplug of CPUs: likewise. */
export const CPU_HOTPLUG_PORT = 0x630;
/** pvpanic device (ACPI QEMU0001), one byte: the guest writes 1 when it panics. */
export const PVPANIC_PORT = 0x505;
/** Keyboard controller's command port: 0xfe pulses the CPU's reset line, as `reboot=k` does. */
export const I8042_COMMAND_PORT = 0x64;

/** INTx of PCI devices: pin (slot % 4) goes to GSI 16 to 19, level triggered, active high. */
export const PCI_INTX_GSI_BASE = 16;
export const PCI_INTX_GSI_COUNT = 4;
/** Slots of bus 0: the host bridge is slot 0. */
export const PCI_SLOTS = 32;

/** Their interrupt lines, which they share by turns: level triggered, active high. */
export const VIRTIO_MMIO_GSI_BASE = 20;
export const VIRTIO_MMIO_GSI_COUNT = 4;
