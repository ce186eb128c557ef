/**
 * Shows a machine in a browser of this host. Other programs and pages in that browser must not get
 * at it: it listens on loopback only, answers by its own names only (against DNS that is made to
 * point here), and serves nothing without the random part of its address.
 */

import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Closeable } from '../host/cleanup-stack.ts';
import { messageOf, UsageError } from '../host/errors.ts';
import { QUEUE_ORDERS } from '../machine/control/protocol.ts';
import { ActivityMeter } from './activity.ts';
import type { DrawnFacts } from './drawing/draw-machine.ts';
import type { Inspector } from './page.ts';
import { inspectPage, inspectView, selectQueue } from './page.ts';
import { VIEWS } from './views.ts';

const ADDRESS = '127.0.0.1';
const TOKEN_BYTES = 16;
/** Between two looks at the machine. */
const PERIOD_MS = 250;
/** Pages that are followed at once; browsers keep the connections of forgotten tabs. */
const STREAMS = 16;
const BODY_MAX = 1024;

const HEADERS = {
  'Cache-Control': 'no-store',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
} as const;

/** Serves from `open` until it is disposed of. */
export class InspectServer extends Closeable {
  readonly #machine: Inspector;
  readonly #meter: ActivityMeter;
  readonly #token = randomBytes(TOKEN_BYTES).toString('base64url');
  readonly #server: Server;
  #streams = 0;
  #open = true;

  /**
   * @param port 0 for any that is free
   * @throws UsageError when the port is not available
   */
  static async open(machine: Inspector, port: number): Promise<InspectServer> {
    const server = new InspectServer(machine);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (error) =>
        reject(new UsageError('E_PORT', `cannot listen on port ${port}: ${error.message}`)),
      );
      server.#server.listen(port, ADDRESS, resolve);
    });
    return server;
  }

  private constructor(machine: Inspector) {
    super();
    this.#machine = machine;
    this.#meter = new ActivityMeter(() => machine.counters());
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        if (response.headersSent) response.destroy();
        else send(response, 502, 'text/plain', `${messageOf(error)}\n`);
      });
    });
  }

  /** The page's address; anyone who knows it can see the machine and hold its queues. */
  get url(): string {
    return `http://${ADDRESS}:${this.#port}/${this.#token}/`;
  }

  close(): void {
    this.#open = false;
    this.#server.close();
    this.#server.closeAllConnections();
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const names = [`${ADDRESS}:${this.#port}`, `localhost:${this.#port}`];
    const { host, origin } = request.headers;
    if (host === undefined || !names.includes(host)) {
      return send(response, 421, 'text/plain', 'No machine has this address.\n');
    }
    const url = new URL(`http://${host}${request.url?.startsWith('/') ? request.url : '/'}`);
    const [, token = '', what, ...rest] = url.pathname.split('/');
    if (!isSame(token, this.#token) || what === undefined || rest.length > 0) {
      return send(response, 404, 'text/plain', 'Not found.\n');
    }
    const method = `${request.method} ${what}`;
    if (method === 'GET ') return await this.#page(url, response);
    if (method === 'GET events') return await this.#follow(url, response);
    if (method !== 'POST order') return send(response, 404, 'text/plain', 'Not found.\n');
    const site = request.headers['sec-fetch-site'];
    const foreign =
      (origin !== undefined && origin !== `http://${host}`) ||
      (site !== undefined && site !== 'same-origin');
    if (foreign)
      return send(
        response,
        403,
        'text/plain',
        'Commands are accepted from the page itself only.\n',
      );
    await this.#order(request, response);
  }

  async #page(url: URL, response: ServerResponse): Promise<void> {
    const { inspection, selection, view, facts } = await this.#look(url);
    const nonce = randomBytes(TOKEN_BYTES).toString('base64');
    response.setHeader(
      'Content-Security-Policy',
      [
        "default-src 'none'",
        `script-src 'nonce-${nonce}'`,
        `style-src 'nonce-${nonce}'`,
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
      ].join('; '),
    );
    const { name } = this.#machine;
    const page = inspectPage(name, inspection, selection, nonce, view, facts);
    send(response, 200, 'text/html; charset=utf-8', page);
  }

  /** Sends the view whenever it changed, as server-sent events, until the page is left. */
  async #follow(url: URL, response: ServerResponse): Promise<void> {
    if (this.#streams >= STREAMS) {
      return send(response, 503, 'text/plain', 'Too many pages are open.\n');
    }
    this.#streams++;
    response.on('close', () => this.#streams--);
    response.writeHead(200, { ...HEADERS, 'Content-Type': 'text/event-stream' });
    let last = '';
    while (this.#open && !response.destroyed) {
      const event = await this.#event(url);
      if (event !== last && !response.destroyed) {
        last = event;
        // A browser that is slow sees fewer views.
        if (!response.write(event)) await drained(response);
      }
      await delay(PERIOD_MS);
    }
    response.end();
  }

  async #event(url: URL): Promise<string> {
    try {
      const { inspection, selection, view, facts } = await this.#look(url);
      const html = inspectView(this.#machine.name, inspection, selection, view, facts);
      return `event: view\ndata: ${JSON.stringify(html)}\n\n`;
    } catch (error) {
      return `event: problem\ndata: ${JSON.stringify(messageOf(error))}\n\n`;
    }
  }

  async #look({ searchParams }: URL) {
    const device = searchParams.get('device') ?? undefined;
    const index = searchParams.get('queue');
    const queue = index !== null && /^\d{1,5}$/.test(index) ? Number(index) : undefined;
    const view = VIEWS.find((known) => known === searchParams.get('view')) ?? 'rings';
    // Without rings first: which of them are wanted shows in what there is.
    const outline = await this.#machine.inspect({ device: '' });
    const selection = selectQueue(outline, device, queue);
    if (selection === undefined || view !== 'rings') {
      const facts = view === 'rings' ? {} : await this.#facts();
      return { inspection: outline, selection, view, facts };
    }
    const filter = { device: selection.device, queue: String(selection.queue) };
    const inspection = await this.#machine.inspect(filter);
    return { inspection, selection, view, facts: {} };
  }

  async #facts(): Promise<DrawnFacts> {
    return { drivers: this.#machine.drivers.known, activity: await this.#meter.current() };
  }

  async #order(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(request);
    const form = new URLSearchParams(body);
    const call = QUEUE_ORDERS.find((order) => order === form.get('call'));
    const device = form.get('device');
    const queue = form.get('queue');
    if (body === undefined || call === undefined || device === null || queue === null) {
      return send(response, 400, 'text/plain', 'This is not a command.\n');
    }
    try {
      await this.#machine.order(call, device, queue);
    } catch (error) {
      return send(response, 409, 'text/plain', messageOf(error));
    }
    const query = new URLSearchParams({ device, queue });
    response.setHeader('Location', `./?${query}`);
    send(response, 303, 'text/plain', 'Done.\n');
  }
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { ...HEADERS, 'Content-Type': type }).end(body);
}

/** In constant time, which does not reveal how much of it is right. */
function isSame(given: string, wanted: string): boolean {
  const bytes = Buffer.from(given);
  return bytes.length === wanted.length && timingSafeEqual(bytes, Buffer.from(wanted));
}

/** @returns undefined when it is longer than an order can be */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) {
    body += chunk;
    if (body.length > BODY_MAX) return undefined;
  }
  return body;
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    response.once('drain', resolve);
    response.once('close', resolve);
  });
}
