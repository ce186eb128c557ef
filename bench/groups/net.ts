/** TCP through a tap, both ways, and the round trip of a ping; vhost is off everywhere. */
import type { Measure, Result } from '../harness/measure.ts';
import { measureInRounds } from '../harness/rounds.ts';
import { NET_SUBJECTS } from '../subjects/all.ts';
import { run } from '../subjects/subject.ts';
import { type Booted, Fleet, type Group, type GroupContext, guestOf, pidOf } from './group.ts';
import { serveIperf, type TapNetwork, Taps } from './taps.ts';

const MEMORY_MIB = 512;
const PINGS = 20;
const TO_HOST: Measure = { name: 'TCP guest to host', unit: 'Mbit/s', better: 'higher' };
const TO_GUEST: Measure = { name: 'TCP host to guest', unit: 'Mbit/s', better: 'higher' };
const PING: Measure = { name: 'ping round trip', unit: 'us', better: 'lower' };

/** What iperf3 -J says of a run, as far as it matters. */
interface IperfReport {
  readonly error?: string;
  readonly end: { readonly sum_received: { readonly bits_per_second: number } };
}

/** Mbit/s as received. @param reverse host to guest */
async function iperf(
  member: Booted,
  server: string,
  seconds: number,
  reverse: boolean,
): Promise<number> {
  const argv = ['iperf3', '-J', '-c', server, '-t', String(seconds), ...(reverse ? ['-R'] : [])];
  const { error, end } = JSON.parse(await run(guestOf(member), argv)) as IperfReport;
  if (error !== undefined) throw new Error(error);
  return end.sum_received.bits_per_second / 1e6;
}

/** Mean round trip in microseconds, of busybox's `round-trip min/avg/max = a/b/c ms`. */
async function ping(member: Booted, server: string): Promise<number> {
  const text = await run(guestOf(member), [
    'ping',
    '-q',
    '-c',
    String(PINGS),
    '-i',
    '0.05',
    server,
  ]);
  const match = /= [0-9.]+\/([0-9.]+)\//.exec(text);
  if (match === null) throw new Error(`ping says: ${text}`);
  return Number(match[1]) * 1000;
}

export const netGroup: Group = {
  name: 'net',
  summary: 'TCP through a tap both ways, ping',
  guests: true,
  async run(context: GroupContext): Promise<Result[]> {
    const { kernel, initrd } = await context.image('tools');
    using taps = new Taps();
    const networks: TapNetwork[] = [];
    for (const index of NET_SUBJECTS.keys()) networks.push(await taps.add(index));
    await using server = await serveIperf();
    await using fleet = await Fleet.boot('net', NET_SUBJECTS, context, (index) => {
      const { tap, guestAddress } = networks[index] as TapNetwork;
      const append = `nodevmm.ip=${guestAddress}/24`;
      return { kernel, initrd, memoryMiB: MEMORY_MIB, tap, append };
    });
    const hostOf = (member: Booted): string => {
      const index = NET_SUBJECTS.findIndex(({ name }) => name === member.name);
      return (networks[index] as TapNetwork).hostAddress;
    };
    const results: Result[] = [];
    for (const measure of [TO_HOST, TO_GUEST]) {
      const take = async (member: Booted, warmUp: boolean) => {
        const seconds = warmUp ? Math.max(2, context.seconds) : context.seconds;
        const reverse = measure === TO_GUEST;
        const rate = iperf(member, hostOf(member), seconds, reverse);
        return { [measure.name]: await server.during('iperf3', rate) };
      };
      results.push(
        ...(await measureInRounds('net', [measure], fleet.members, context, take, pidOf)),
      );
    }
    const takePing = async (member: Booted) => ({
      [PING.name]: await ping(member, hostOf(member)),
    });
    results.push(
      ...(await measureInRounds('net', [PING], fleet.members, context, takePing, pidOf)),
    );
    return results;
  },
};
