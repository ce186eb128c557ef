/** Runs of pages in a balloon, and huge pages. */
import t from 'tap';
import { BalloonPages, NOT_RAM } from '../../../../src/virtio/device/balloon/balloon-pages.ts';

const PAGE = 4096;
const HUGE = 2 ** 21;
const GiB = 2 ** 30;

function setUp(pageSize = PAGE, result = 0) {
  const released: number[][] = [];
  const release = (offset: number, length: number): number => {
    released.push([offset / PAGE, length / PAGE]);
    return result;
  };
  // 3 GiB, a hole, and 1 GiB from 4 GiB on, at offset 3 GiB.
  const offset = (gpa: number, length: number): number => {
    if (gpa + length <= 3 * GiB) return gpa;
    return gpa >= 4 * GiB && gpa + length <= 5 * GiB ? gpa - GiB : -1;
  };
  const pages = new BalloonPages({ offset, size: 4 * GiB }, { release, pageSize });
  return { pages, released };
}

const run = (first: number, count: number): Uint32Array =>
  Uint32Array.from({ length: count }, (_, at) => first + at);

t.test('neighbors go back together, in whatever order they come', async (t) => {
  const { pages, released } = setUp();
  t.equal(pages.inflate(Uint32Array.of(9, 3, 4, 2 ** 20, 5, 9, 4)), 0);
  t.same(released, [
    [3, 3],
    [9, 1],
    [(3 * GiB) / PAGE, 1],
  ]);
});

t.test('a run that leaves RAM is refused', async (t) => {
  const { pages } = setUp();
  t.equal(pages.inflate(run((3 * GiB) / PAGE - 1, 2)), NOT_RAM);
  t.equal(pages.deflate(run((5 * GiB) / PAGE - 1, 2)), NOT_RAM);
  t.equal(pages.inflate(Uint32Array.of(2 ** 32 - 1)), NOT_RAM);
});

t.test('what the host says is passed on', async (t) => {
  t.equal(setUp(PAGE, -22).pages.inflate(Uint32Array.of(1, 3)), -22);
  t.equal(setUp(HUGE, -22).pages.inflate(run(512, 512)), -22);
});

t.test('a huge page goes back once all of it is in the balloon', async (t) => {
  const { pages, released } = setUp(HUGE);
  pages.inflate(run(512, 511));
  t.same(released, []);
  pages.inflate(Uint32Array.of(1023));
  t.same(released.splice(0), [[512, 512]]);
  pages.deflate(Uint32Array.of(600));
  pages.inflate(run(512, 88));
  t.same(released, [], 'a part of it is in use');
  pages.inflate(Uint32Array.of(600));
  t.same(released.splice(0), [[512, 512]]);
  pages.inflate(run(1024, 1500));
  t.same(released, [
    [1024, 512],
    [1536, 512],
  ]);
});
