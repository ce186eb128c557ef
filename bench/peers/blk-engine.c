/*
 * The least that C needs to read or write random 4 KiB blocks of a file: one by one, or io_uring with
 * DEPTH in flight and one io_uring_enter(2) a round. Raw system calls, no library, no
 * virtqueue: the floor that bench/blk-engine.ts compares with.
 *
 * Usage: blk-engine FILE sync|io_uring DEPTH REQUESTS DIRECT read|write
 * Prints the requests a second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MAX_DEPTH = 256 };

static uint64_t seed = 1;

static uint32_t next_random(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(seed >> 33);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void run_sync(int fd, int writes, struct iovec *iov, uint32_t blocks, long requests) {
  for (long i = 0; i < requests; i++) {
    off_t offset = (off_t)(next_random() % blocks) * BLOCK;
    const struct iovec *v = &iov[i % MAX_DEPTH];
    if ((writes ? pwritev(fd, v, 1, offset) : preadv(fd, v, 1, offset)) != BLOCK) die("request");
  }
}

static void run_ring(int fd, int writes, struct iovec *iov, uint32_t blocks, long requests,
                     unsigned depth) {
  struct io_uring_params p;
  memset(&p, 0, sizeof p);
  p.flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER;
  int ring = (int)syscall(SYS_io_uring_setup, depth, &p);
  if (ring < 0) die("io_uring_setup");
  size_t length = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  char *rings = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, 0);
  struct io_uring_sqe *sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
  if (rings == MAP_FAILED || sqes == MAP_FAILED) die("mmap");
  uint32_t *sq_tail = (uint32_t *)(rings + p.sq_off.tail);
  uint32_t *sq_array = (uint32_t *)(rings + p.sq_off.array);
  uint32_t *cq_head = (uint32_t *)(rings + p.cq_off.head);
  uint32_t *cq_tail = (uint32_t *)(rings + p.cq_off.tail);
  struct io_uring_cqe *cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
  uint32_t tail = 0, head = 0;
  long started = 0, done = 0;
  for (unsigned i = 0; i < p.sq_entries; i++) sq_array[i] = i;
  while (done < requests) {
    unsigned batch = 0;
    while (started < requests && started - done < depth) {
      struct io_uring_sqe *sqe = &sqes[tail & (p.sq_entries - 1)];
      memset(sqe, 0, sizeof *sqe);
      sqe->opcode = writes ? IORING_OP_WRITEV : IORING_OP_READV;
      sqe->fd = fd;
      sqe->off = (uint64_t)(next_random() % blocks) * BLOCK;
      sqe->addr = (uint64_t)(uintptr_t)&iov[started % MAX_DEPTH];
      sqe->len = 1;
      tail++;
      started++;
      batch++;
    }
    __atomic_store_n(sq_tail, tail, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, batch, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) die("enter");
    while (head != __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
      if (cqes[head & (p.cq_entries - 1)].res != BLOCK) die("request");
      head++;
      done++;
    }
    __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
  }
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  int writes = strcmp(argv[6], "write") == 0;
  int fd = open(argv[1], O_RDWR | (atoi(argv[5]) ? O_DIRECT : 0));
  struct stat st;
  if (fd < 0 || fstat(fd, &st) < 0) die(argv[1]);
  uint32_t blocks = (uint32_t)(st.st_size / BLOCK);
  unsigned depth = (unsigned)atoi(argv[3]);
  long requests = atol(argv[4]);
  char *memory = mmap(0, MAX_DEPTH * BLOCK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  static struct iovec iov[MAX_DEPTH];
  if (memory == MAP_FAILED) die("mmap");
  for (int i = 0; i < MAX_DEPTH; i++) {
    iov[i].iov_base = memory + (size_t)i * BLOCK;
    iov[i].iov_len = BLOCK;
  }
  double start = now();
  if (strcmp(argv[2], "sync") == 0) run_sync(fd, writes, iov, blocks, requests);
  else run_ring(fd, writes, iov, blocks, requests, depth);
  printf("%.0f\n", (double)requests / (now() - start));
  return 0;
}
