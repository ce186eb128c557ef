/** The page's server: what it serves, and what it refuses. */
import {
  request as httpRequest,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http';
import t from 'tap';
import { UsageError } from '../../../src/host/errors.ts';
import { GuestDrivers } from '../../../src/inspect/guest-drivers.ts';
import type { Inspector } from '../../../src/inspect/page.ts';
import { InspectServer } from '../../../src/inspect/web-server.ts';
import { anInspection, someCounters } from '../../support/fixtures/inspection.ts';

class FakeMachine implements Inspector {
  readonly name = 'web';
  readonly drivers = new GuestDrivers(
    async () => new Map([['PCI 00:02.0', { name: 'its_driver', userland: false }]]),
  );
  readonly orders: string[] = [];
  gone = false;
  async inspect() {
    if (this.gone) throw new UsageError('E_NAME', 'no machine named web is running');
    return anInspection();
  }
  async counters() {
    return someCounters();
  }
  async order(call: string, device: string, queue: string): Promise<void> {
    if (device === 'net0') throw new UsageError('E_HELD', 'net0: not this one');
    this.orders.push(`${call} ${device} ${queue}`);
  }
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** Not by fetch, which does not let callers set Host. */
function ask(url: string, headers: OutgoingHttpHeaders = {}, post?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const method = post === undefined ? 'GET' : 'POST';
    const request = httpRequest(url, { method, headers, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk;
      });
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body }),
      );
    });
    request.on('error', reject);
    request.end(post);
  });
}

const ORDER = 'call=step&device=busy0&queue=1';

t.test('the page, under its own address only', async (t) => {
  using server = await InspectServer.open(new FakeMachine(), 0);
  const { url } = server;
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{22}\/$/);
  const page = await ask(`${url}?device=busy0&queue=1`);
  t.equal(page.status, 200);
  t.match(page.body, /busy0 q1/);
  const policy = page.headers['content-security-policy'] ?? '';
  const [, nonce] = /script-src 'nonce-([^']+)'/.exec(String(policy)) ?? [];
  t.match(policy, /^default-src 'none';.*frame-ancestors 'none'/);
  t.ok(page.body.includes(`<script nonce="${nonce}">`));
  const again = await ask(url);
  t.notOk(again.body.includes(`nonce="${nonce}"`), 'a nonce of its own for each page');
  t.match(page.headers, {
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    'cross-origin-resource-policy': 'same-origin',
  });
  t.notOk('access-control-allow-origin' in page.headers);
});

t.test('drawings, with the drivers that are known', async (t) => {
  const machine = new FakeMachine();
  await machine.drivers.refresh();
  using server = await InspectServer.open(machine, 0);
  const one = await ask(`${server.url}?device=busy0&view=drawing`);
  t.match(one.body, /<svg class="drawing".*aria-label="busy0: /);
  t.match(one.body, />its_driver</);
  t.equal(
    (await ask(`${server.url}?view=drawings`)).body.match(/<svg class="drawing"/g)?.length,
    3,
  );
  t.notMatch((await ask(`${server.url}?view=nosuch`)).body, /<svg class="drawing"/);
});

t.test('without the token, or by another host name, nothing is served', async (t) => {
  const machine = new FakeMachine();
  using server = await InspectServer.open(machine, 0);
  const { url } = server;
  const { origin, port, pathname } = new URL(url);
  for (const path of [
    '/',
    '/x/',
    `/${'A'.repeat(22)}/`,
    pathname.slice(0, -1),
    `${pathname}x`,
    `/${pathname}`,
  ]) {
    const { status, body } = await ask(origin + path);
    t.equal(status, 404, path);
    t.notMatch(body, /busy0/);
  }
  for (const host of [
    'evil.example',
    `evil.example:${port}`,
    '127.0.0.1',
    `127.0.0.1:${Number(port) ^ 1}`,
  ]) {
    t.equal((await ask(url, { host })).status, 421, host);
    t.equal((await ask(`${url}order`, { host }, ORDER)).status, 421, host);
  }
  t.equal((await ask(url, { host: `localhost:${port}` })).status, 200);
  const wrong = [
    { origin: 'http://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
  ];
  for (const headers of wrong) {
    t.equal((await ask(`${url}order`, headers, ORDER)).status, 403, JSON.stringify(headers));
  }
  t.equal((await ask(`${url}order?${ORDER}`)).status, 404, 'an order is no link');
  t.same(machine.orders, []);
});

t.test('orders reach the machine, and its refusal the page', async (t) => {
  const machine = new FakeMachine();
  using server = await InspectServer.open(machine, 0);
  const { url } = server;
  const { origin } = new URL(url);
  const done = await ask(`${url}order`, { origin, 'sec-fetch-site': 'same-origin' }, ORDER);
  t.match(done, { status: 303, headers: { location: './?device=busy0&queue=1' } });
  t.same(machine.orders, ['step busy0 1']);
  t.match(await ask(`${url}order`, {}, 'call=hold&device=net0&queue=0'), {
    status: 409,
    body: 'net0: not this one',
  });
  for (const body of ['', 'call=stop&device=busy0&queue=0', 'call=hold&device=busy0', '%%%']) {
    t.equal((await ask(`${url}order`, {}, body)).status, 400, body);
  }
  await ask(`${url}order`, {}, `${ORDER}&x=${'x'.repeat(2000)}`).catch(() => undefined);
  t.same(machine.orders, ['step busy0 1']);
});

t.test('a page that is followed sees changes, and the end of the machine', async (t) => {
  const machine = new FakeMachine();
  using server = await InspectServer.open(machine, 0);
  const events: string[] = [];
  await new Promise<void>((resolve, reject) => {
    const request = httpRequest(`${server.url}events?device=busy0&queue=0`, (response) => {
      t.match(response.headers['content-type'], /event-stream/);
      response.setEncoding('utf8').on('data', (text: string) => {
        events.push(text);
        machine.gone = true;
        if (!text.startsWith('event: problem')) return;
        request.destroy();
        resolve();
      });
      response.on('error', () => undefined);
    });
    request.on('error', reject);
    request.end();
  });
  t.match(events[0], /^event: view\ndata: "/);
  t.match(JSON.parse(events[0]?.split('data: ')[1] ?? ''), /busy0 q0/);
  t.match(events.at(-1), /no machine named web/);
  t.match(await ask(server.url), { status: 502, body: /no machine named web/ });
});

t.test('a port that is taken is named', async (t) => {
  using server = await InspectServer.open(new FakeMachine(), 0);
  const port = Number(new URL(server.url).port);
  await t.rejects(InspectServer.open(new FakeMachine(), port), { code: 'E_PORT' });
});
