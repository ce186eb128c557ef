/**
 * Intel 82540EM: registers, descriptors, EEPROM and PHY, after the PCI/PCI-X Family of Gigabit
 * Ethernet Controllers Software Developer's Manual 4.0, which the comments call SDM.
 */
import { struct } from './struct.ts';

export const PCI_VENDOR_ID_INTEL = 0x8086;
export const E1000_DEV_ID_82540EM = 0x100e;
/** The PRO/1000 MT Desktop Adapter. */
export const E1000_SUBSYSTEM_ID = 0x001e;
export const E1000_REVISION = 2;

/** SDM 13.2: byte offsets of the registers. */
export const CTRL = 0x0000;
export const STATUS = 0x0008;
export const EECD = 0x0010;
export const EERD = 0x0014;
export const CTRL_EXT = 0x0018;
export const MDIC = 0x0020;
export const FCAL = 0x0028;
export const FCAH = 0x002c;
export const FCT = 0x0030;
export const VET = 0x0038;
export const ICR = 0x00c0;
export const ITR = 0x00c4;
export const ICS = 0x00c8;
export const IMS = 0x00d0;
export const IMC = 0x00d8;
export const RCTL = 0x0100;
export const FCTTV = 0x0170;
export const TXCW = 0x0178;
export const TCTL = 0x0400;
export const TIPG = 0x0410;
export const AIT = 0x0458;
export const LEDCTL = 0x0e00;
export const PBA = 0x1000;
export const FCRTL = 0x2160;
export const FCRTH = 0x2168;
export const RDBAL = 0x2800;
export const RDBAH = 0x2804;
export const RDLEN = 0x2808;
export const RDH = 0x2810;
export const RDT = 0x2818;
export const RDTR = 0x2820;
export const RXDCTL = 0x2828;
export const RADV = 0x282c;
export const RSRPD = 0x2c00;
export const TDBAL = 0x3800;
export const TDBAH = 0x3804;
export const TDLEN = 0x3808;
export const TDH = 0x3810;
export const TDT = 0x3818;
export const TIDV = 0x3820;
export const TXDCTL = 0x3828;
export const TADV = 0x382c;
export const TSPMT = 0x3830;
export const RXCSUM = 0x5000;
/** Tables, of 32-bit words. */
export const MTA = 0x5200;
export const MTA_WORDS = 128;
export const RA = 0x5400;
export const RA_ENTRIES = 16;
export const VFTA = 0x5600;
export const VFTA_WORDS = 128;
export const WUC = 0x5800;
export const WUFC = 0x5808;
export const MANC = 0x5820;
/** All that is backed by memory ends here. */
export const REGISTERS_END = 0x5900;

/** SDM 13.7: statistics, cleared by reading; of the 64-bit ones by reading the upper half. */
export const STATISTICS = 0x4000;
export const STATISTICS_END = 0x4100;
export const MPC = 0x4010;
export const GPRC = 0x4074;
export const BPRC = 0x4078;
export const MPRC = 0x407c;
export const GPTC = 0x4080;
export const GORCL = 0x4088;
export const GORCH = 0x408c;
export const GOTCL = 0x4090;
export const GOTCH = 0x4094;
export const ROC = 0x40ac;
export const TORL = 0x40c0;
export const TORH = 0x40c4;
export const TOTL = 0x40c8;
export const TOTH = 0x40cc;
export const TPR = 0x40d0;
export const TPT = 0x40d4;
export const MPTC = 0x40f0;
export const BPTC = 0x40f4;
export const TSCTC = 0x40f8;

/** SDM 4, 13.2: the register window, the I/O window and the two ports in it. */
export const E1000_MEMORY_SIZE = 0x2_0000;
export const E1000_IO_SIZE = 64;
export const IOADDR = 0;
export const IODATA = 4;

export const CTRL_FD = 0x1;
export const CTRL_SLU = 0x40;
export const CTRL_RST = 0x0400_0000;
export const CTRL_VME = 0x4000_0000;
export const CTRL_PHY_RST = 0x8000_0000;

export const STATUS_FD = 0x1;
export const STATUS_LU = 0x2;
export const STATUS_SPEED_1000 = 0x80;

export const EECD_SK = 0x1;
export const EECD_CS = 0x2;
export const EECD_DI = 0x4;
export const EECD_DO = 0x8;
export const EECD_FWE = 0x30;
export const EECD_REQ = 0x40;
export const EECD_GNT = 0x80;
export const EECD_PRES = 0x100;

export const EERD_START = 0x1;
export const EERD_DONE = 0x10;

export const MDIC_OP_WRITE = 1;
export const MDIC_OP_READ = 2;
export const MDIC_READY = 0x1000_0000;
export const MDIC_INT_EN = 0x2000_0000;
export const MDIC_ERROR = 0x4000_0000;

/** Interrupt causes: ICR, ICS, IMS, IMC (SDM 13.4). */
export const ICR_TXDW = 0x1;
export const ICR_TXQE = 0x2;
export const ICR_LSC = 0x4;
export const ICR_RXDMT0 = 0x10;
export const ICR_RXO = 0x40;
export const ICR_RXT0 = 0x80;
export const ICR_MDAC = 0x200;
/** All causes that the device knows: bits 0 to 16. */
export const ICR_ALL = 0x1_ffff;

export const RCTL_EN = 0x2;
export const RCTL_UPE = 0x8;
export const RCTL_MPE = 0x10;
export const RCTL_LPE = 0x20;
export const RCTL_RDMTS_SHIFT = 8;
export const RCTL_MO_SHIFT = 12;
export const RCTL_BAM = 0x8000;
export const RCTL_BSIZE_SHIFT = 16;
export const RCTL_VFE = 0x4_0000;
export const RCTL_BSEX = 0x200_0000;
export const RCTL_SECRC = 0x400_0000;

export const TCTL_EN = 0x2;
export const TCTL_PSP = 0x8;

/** The upper half of a receive address: the entry is valid. */
export const RAH_AV = 0x8000_0000;

/** SDM 3.2.3: legacy receive descriptor. */
export const rx_desc = struct({
  buffer_addr: 8,
  length: 2,
  csum: 2,
  status: 1,
  errors: 1,
  special: 2,
});
export const RXD_STAT_DD = 0x01;
export const RXD_STAT_EOP = 0x02;
/** Ignore the checksum bits: none was verified. */
export const RXD_STAT_IXSM = 0x04;
export const RXD_STAT_VP = 0x08;

/** SDM 3.3: what all transmit descriptors have in common. */
export const tx_desc = struct({ buffer_addr: 8, lower: 4, upper: 4 });
/** Bits of `lower`: the command byte is its highest. */
export const TXD_CMD_EOP = 0x0100_0000;
export const TXD_CMD_IC = 0x0400_0000;
export const TXD_CMD_TSE = 0x0400_0000;
export const TXD_CMD_RS = 0x0800_0000;
export const TXD_CMD_DEXT = 0x2000_0000;
export const TXD_CMD_VLE = 0x4000_0000;
/** Extended descriptors: length and type in `lower`. */
export const TXD_EXT_LENGTH = 0xf_ffff;
export const TXD_DTYP_SHIFT = 20;
export const TXD_DTYP_CONTEXT = 0;
export const TXD_DTYP_DATA = 1;
export const TXD_STAT_DD = 0x01;
/** Of a data descriptor's `upper`. */
export const TXD_POPTS_IXSM = 0x100;
export const TXD_POPTS_TXSM = 0x200;
/** Of a context descriptor's third word. */
export const TXC_TCP = 0x0100_0000;
export const TXC_IP = 0x0200_0000;

/** SDM 5.6: words of the EEPROM. */
export const EEPROM_WORDS = 64;
export const EEPROM_ID_LED_SETTINGS = 0x04;
export const EEPROM_PBA_BYTE_1 = 0x08;
export const EEPROM_INIT_CONTROL1 = 0x0a;
export const EEPROM_SUBSYSTEM_ID = 0x0b;
export const EEPROM_SUBSYSTEM_VENDOR_ID = 0x0c;
export const EEPROM_DEVICE_ID = 0x0d;
export const EEPROM_VENDOR_ID = 0x0e;
export const EEPROM_INIT_CONTROL2 = 0x0f;
export const EEPROM_CHECKSUM = 0x3f;
/** What all words add up to. */
export const EEPROM_SUM = 0xbaba;

/** SDM 13.4: registers of the PHY at address 1. */
export const PHY_ADDRESS = 1;
export const PHY_CTRL = 0;
export const PHY_STATUS = 1;
export const PHY_ID1 = 2;
export const PHY_ID2 = 3;
export const PHY_AUTONEG_ADV = 4;
export const PHY_LP_ABILITY = 5;
export const PHY_AUTONEG_EXP = 6;
export const PHY_NEXT_PAGE_TX = 7;
export const PHY_LP_NEXT_PAGE = 8;
export const PHY_1000T_CTRL = 9;
export const PHY_1000T_STATUS = 10;
export const PHY_EXT_STATUS = 15;
export const M88E1000_PHY_SPEC_CTRL = 16;
export const M88E1000_PHY_SPEC_STATUS = 17;
export const M88E1000_INT_STATUS = 19;
export const M88E1000_EXT_PHY_SPEC_CTRL = 20;
export const M88E1000_RX_ERR_CNTR = 21;
export const PHY_REGISTERS = 32;

export const MII_CR_RESTART_AUTO_NEG = 0x0200;
export const MII_CR_RESET = 0x8000;
