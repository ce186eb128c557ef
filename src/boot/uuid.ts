/** UUIDs as firmware tables hold them. */
import { InternalError } from '../host/errors.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** True for 8-4-4-4-12 hexadecimal digits. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/**
 * The 16 bytes of a UUID: its first three fields little-endian, the rest in the order of the text
 * (ACPI 6.5 §19.6.143, SMBIOS 3.7 §7.2.1).
 */
export function uuidBytes(text: string): Uint8Array {
  if (!isUuid(text)) throw new InternalError(`UUID ${text}`);
  const bytes = Uint8Array.from(Buffer.from(text.replaceAll('-', ''), 'hex'));
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}
