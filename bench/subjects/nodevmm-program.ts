/** nodevmm's command line, as it is installed. */
import { fileURLToPath } from 'node:url';

export const NODEVMM = fileURLToPath(new URL('../../bundle/bin/main.js', import.meta.url));
