/** Where nodevmm itself lies: files of the package are found from here, and the lab must see it. */
import { fileURLToPath } from 'node:url';

/** The folder of package.json. This module runs from dist/src/host, or from dist/bundle/bin. */
export const packageFolder = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
