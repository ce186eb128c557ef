/** What a guest is told of the computer that it runs on: what may be chosen, and how it is checked. */
import { UsageError } from '../host/errors.ts';
import { list, type OptionSchema, options, text } from '../options/option-schema.ts';
import { isUuid } from './uuid.ts';

/** Strings of the SMBIOS tables, which Linux shows below /sys/class/dmi/id. */
export interface SmbiosOptions {
  /** sys_vendor. Default `nodevmm`. */
  readonly manufacturer?: string;
  /** product_name. Default `virtual machine`. */
  readonly product?: string;
  /** product_version. Default none. */
  readonly version?: string;
  /** product_serial, where cloud-init looks for `ds=nocloud;...`. Default none. */
  readonly serial?: string;
  /** product_uuid, as 8-4-4-4-12 hexadecimal digits. Default none. */
  readonly uuid?: string;
  /** product_sku. Default none. */
  readonly sku?: string;
  /** product_family. Default none. */
  readonly family?: string;
  /** chassis_asset_tag. Default none. */
  readonly assetTag?: string;
  /** OEM strings, where systemd looks for `io.systemd.credential:...`. At most 255. Default none. */
  readonly oemStrings?: readonly string[];
}

export const SMBIOS: OptionSchema<SmbiosOptions> = options<SmbiosOptions>(
  {},
  {
    manufacturer: text(),
    product: text(),
    version: text(),
    serial: text(),
    uuid: text(),
    sku: text(),
    family: text(),
    assetTag: text(),
    oemStrings: list(text(), { key: 'oem-string' }),
  },
  { code: 'E_SMBIOS' },
);

/** The tables lie in 64 KiB and need less than 1 KiB for everything else. */
const STRINGS_MAX = 48 * 1024;
/** A structure counts its strings in one byte. */
const OEM_STRINGS_MAX = 255;

/** @throws UsageError E_SMBIOS naming the string */
export function checkSmbios(options: SmbiosOptions): void {
  const { uuid, oemStrings = [], ...named } = options;
  const refuse = (what: string): never => {
    throw new UsageError('E_SMBIOS', `SMBIOS: ${what}`);
  };
  if (uuid !== undefined && !isUuid(uuid)) {
    refuse(`the uuid ${printable(uuid)} is invalid; use 8-4-4-4-12 hexadecimal digits`);
  }
  const strings: [string, string][] = Object.entries(named);
  strings.push(...oemStrings.map((text): [string, string] => ['OEM string', text]));
  for (const [name, text] of strings) {
    if (text === '') refuse(`the ${name} is empty; leave it out`);
    if (!/^[\x20-\x7e]*$/.test(text)) {
      refuse(
        `the ${name} ${printable(text)} has characters that are not printable ASCII; remove them`,
      );
    }
  }
  if (oemStrings.length > OEM_STRINGS_MAX) {
    refuse(`${oemStrings.length} OEM strings are too many; the maximum is ${OEM_STRINGS_MAX}`);
  }
  const bytes = strings.reduce((sum, [, text]) => sum + text.length + 1, 0);
  if (bytes > STRINGS_MAX) {
    refuse(`the strings have ${bytes} bytes, more than ${STRINGS_MAX}; shorten them`);
  }
}

/** For messages of one line. */
function printable(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}
