/** `--smbios`: the strings that describe the computer to the guest. */
import { SMBIOS, type SmbiosOptions } from '../../boot/smbios.ts';
import { UsageError } from '../../host/errors.ts';
import { keysHelp, optionsFromKeys, splitKeys } from '../../options/option-text.ts';

export const SMBIOS_KEYS: string = keysHelp(SMBIOS);

/**
 * Merges one or several `--smbios KEY=VALUE,...`; only `oem-string` may be repeated.
 * @throws UsageError
 */
export function parseSmbios(texts: readonly string[]): SmbiosOptions {
  let options: SmbiosOptions = {};
  const oemStrings: string[] = [];
  for (const text of texts) {
    const said = `--smbios ${text}`;
    if (!/^[a-z-]+=/.test(text)) {
      throw new UsageError('E_OPTION', `${said} has no KEY=VALUE; it takes ${SMBIOS_KEYS}`);
    }
    const keys = splitKeys('--smbios', text, '');
    const { oemStrings: more = [], ...strings }: SmbiosOptions = optionsFromKeys(
      SMBIOS,
      keys,
      said,
    );
    oemStrings.push(...more);
    const again = Object.keys(strings).find((key) => key in options);
    if (again !== undefined) throw new UsageError('E_OPTION', `${said} names ${again} again`);
    options = { ...options, ...strings };
  }
  return oemStrings.length === 0 ? options : { ...options, oemStrings };
}
