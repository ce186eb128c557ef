/** `--smbios`: what the guest is told of its computer. */
import type { SmbiosOptions } from '../../boot/smbios-options.ts';
import { UsageError } from '../../host/errors.ts';
import { KeyValues } from '../key-values.ts';
import { given } from './device-options.ts';

const KEYS = [
  'manufacturer',
  'product',
  'version',
  'serial',
  'uuid',
  'sku',
  'family',
  'asset-tag',
  'oem-string',
];

/**
 * All that is given by one or several `--smbios KEY=VALUE,...`; only `oem-string` may come again.
 * @throws UsageError
 */
export function parseSmbios(texts: readonly string[]): SmbiosOptions {
  let options: SmbiosOptions = {};
  const oemStrings: string[] = [];
  for (const text of texts) {
    if (!/^[a-z-]+=/.test(text)) {
      throw new UsageError(
        'E_OPTION',
        `--smbios ${text} has no KEY=VALUE; it takes ${KEYS.join(', ')}`,
      );
    }
    const values = new KeyValues('--smbios', text, '');
    const more = given<SmbiosOptions>({
      manufacturer: values.text('manufacturer'),
      product: values.text('product'),
      version: values.text('version'),
      serial: values.text('serial'),
      uuid: values.text('uuid'),
      sku: values.text('sku'),
      family: values.text('family'),
      assetTag: values.text('asset-tag'),
    });
    const oemString = values.text('oem-string');
    if (oemString !== undefined) oemStrings.push(oemString);
    values.finish(KEYS);
    const again = Object.keys(more).find((key) => key in options);
    if (again !== undefined)
      throw new UsageError('E_OPTION', `--smbios ${text} names ${again} again`);
    options = { ...options, ...more };
  }
  return oemStrings.length === 0 ? options : { ...options, oemStrings };
}
