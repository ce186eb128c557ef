/** The program of `npm run bench`, and the one that runs in the lab: the same as `nodevmm bench`. */
import { reportError } from '../src/cli/terminal/messages.ts';
import { finish, guardStandardStreams } from '../src/cli/terminal/standard-streams.ts';
import { bench } from './command.ts';

guardStandardStreams((error) => finish(reportError(error)));
finish(await bench(process.argv.slice(2)));
