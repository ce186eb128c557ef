/** Where nodevmm itself lies: the lab must see it. */
import { fileURLToPath } from 'node:url';

/** The folder of package.json. This module runs from dist/src/lab. */
export const packageFolder = fileURLToPath(new URL('../../../', import.meta.url)).replace(
  /\/$/,
  '',
);
