/*
 * The loop of bench/groups/queue-walk.ts in C: pop every chain of a full ring, lay its segments out as
 * iovecs, use it, publish every 32 chains. The same checks, the same barriers.
 *
 * Usage: queue-walk FORMAT(split|packed) TABLE(direct|indirect) SEGMENTS ROUNDS
 * Prints nanoseconds a chain, the median of the rounds.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

enum { SIZE = 4096, BATCH = 32, MAX_SEGMENTS = 1024 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, AVAIL = 1 << 7, USED = 1 << 15 };
#define RAM_SIZE (64u << 20)

struct desc {
  uint64_t addr;
  uint32_t len;
  uint16_t a, b; /* split: flags, next; packed: id, flags */
};
struct used_elem {
  uint32_t id, len;
};
struct chain {
  uint32_t id, count, readable, slots;
  uint64_t readable_length, writable_length;
  struct iovec iov[MAX_SEGMENTS];
};

static uint8_t *ram;
static struct desc *ring;
static uint16_t *avail, *used;
static uint32_t *driver_event;
static struct chain chain;
static uint16_t next_avail, avail_idx, next_used, published;
static uint32_t place_avail, place_used, lap_avail = 1, lap_used = 1;
static uint32_t pending, first_place, in_flight;
static uint16_t first_flags;

static int add(uint64_t gpa, uint32_t len, int writable) {
  if (!writable && chain.count != chain.readable) return -1;
  if (len == 0) return 0;
  if (chain.count == MAX_SEGMENTS) return -1;
  if (chain.readable_length + chain.writable_length + len > (1ull << 32)) return -1;
  if (gpa >= RAM_SIZE || gpa + len > RAM_SIZE) return -1;
  chain.iov[chain.count].iov_base = ram + gpa;
  chain.iov[chain.count].iov_len = len;
  chain.count++;
  if (writable) {
    chain.writable_length += len;
  } else {
    chain.readable++;
    chain.readable_length += len;
  }
  return 0;
}

static void clear(void) {
  chain.count = chain.readable = 0;
  chain.readable_length = chain.writable_length = 0;
  chain.slots = 1;
}

static int walk_split(const volatile struct desc *table, uint32_t index, uint32_t size, int nested) {
  for (uint32_t budget = size; budget > 0; budget--) {
    if (index >= size) return -1;
    uint64_t gpa = table[index].addr;
    uint32_t len = table[index].len, flags = table[index].a, next = table[index].b;
    if (flags & INDIRECT) {
      if (nested || (flags & NEXT) || len == 0 || len % 16 || gpa + len > RAM_SIZE) return -1;
      return walk_split((const volatile struct desc *)(ram + gpa), 0, len / 16, 1);
    }
    if (add(gpa, len, flags & WRITE) < 0) return -1;
    if (!(flags & NEXT)) return 0;
    index = next;
  }
  return -1;
}

static int pop_split(void) {
  if (next_avail == avail_idx) {
    avail_idx = atomic_load((_Atomic uint16_t *)&avail[1]);
    if (next_avail == avail_idx) return 0;
    if ((uint16_t)(avail_idx - next_used) > SIZE) return -1;
  }
  uint16_t head = ((volatile uint16_t *)avail)[2 + next_avail % SIZE];
  clear();
  if (walk_split(ring, head, SIZE, 0) < 0) return -1;
  chain.id = head;
  next_avail++;
  return 1;
}

static void push_split(uint32_t id, uint32_t written) {
  struct used_elem *elem = (struct used_elem *)(used + 2) + next_used % SIZE;
  elem->id = id;
  elem->len = written;
  next_used++;
}

static int publish_split(void) {
  if (published == next_used) return 0;
  published = next_used;
  atomic_store((_Atomic uint16_t *)&used[1], next_used);
  return !(atomic_load((_Atomic uint16_t *)&avail[0]) & 1);
}

static int pop_packed(void) {
  uint16_t lap = lap_avail ? AVAIL : USED;
  uint16_t flags = atomic_load((_Atomic uint16_t *)&ring[place_avail].b);
  if ((flags & (AVAIL | USED)) != lap) return 0;
  clear();
  uint32_t place = place_avail, slots = 1;
  if (flags & INDIRECT) {
    uint64_t gpa = ring[place].addr;
    uint32_t len = ring[place].len;
    if ((flags & NEXT) || len == 0 || len % 16 || len > MAX_SEGMENTS * 16) return -1;
    if (gpa + len > RAM_SIZE) return -1;
    volatile struct desc *table = (volatile struct desc *)(ram + gpa);
    for (uint32_t i = 0; i < len / 16; i++)
      if (add(table[i].addr, table[i].len, table[i].b & WRITE) < 0) return -1;
    chain.id = ring[place].a;
  } else {
    for (;; slots++) {
      if (slots > SIZE) return -1;
      volatile struct desc *d = &ring[place];
      if (add(d->addr, d->len, flags & WRITE) < 0) return -1;
      if (!(flags & NEXT)) {
        chain.id = d->a;
        break;
      }
      if (++place == SIZE) {
        place = 0;
        lap ^= AVAIL | USED;
      }
      flags = ring[place].b;
      if ((flags & (AVAIL | USED)) != lap || (flags & INDIRECT)) return -1;
    }
  }
  if (in_flight + slots > SIZE) return -1;
  chain.slots = slots;
  in_flight += slots;
  place_avail += slots;
  if (place_avail >= SIZE) {
    place_avail -= SIZE;
    lap_avail ^= 1;
  }
  return 1;
}

static void push_packed(uint32_t id, uint32_t slots, uint32_t written) {
  uint16_t flags = (lap_used ? AVAIL | USED : 0) | (written ? WRITE : 0);
  ring[place_used].len = written;
  ring[place_used].a = id;
  if (pending == 0) {
    first_place = place_used;
    first_flags = flags;
  } else {
    ring[place_used].b = flags;
  }
  pending += slots;
  in_flight -= slots;
  place_used += slots;
  if (place_used >= SIZE) {
    place_used -= SIZE;
    lap_used ^= 1;
  }
}

static int publish_packed(void) {
  if (pending == 0) return 0;
  pending = 0;
  atomic_store((_Atomic uint16_t *)&ring[first_place].b, first_flags);
  return ((atomic_load((_Atomic uint32_t *)driver_event) >> 16) & 3) != 1;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  int packed = !strcmp(argv[1], "packed"), indirect = !strcmp(argv[2], "indirect");
  uint32_t segments = atoi(argv[3]), rounds = atoi(argv[4]);
  uint32_t slots = indirect ? 1 : segments, chains = SIZE / slots;
  ram = aligned_alloc(4096, RAM_SIZE);
  memset(ram, 0, RAM_SIZE);
  ring = (struct desc *)(ram + (1 << 20));
  avail = (uint16_t *)(ram + (2 << 20));
  used = (uint16_t *)(ram + (3 << 20));
  driver_event = (uint32_t *)(ram + (4 << 20));
  uint32_t data = 8 << 20, tables = 5 << 20;
  for (uint32_t c = 0; c < chains; c++) {
    uint32_t head = c * slots;
    struct desc *table = indirect ? (struct desc *)(ram + tables + c * 64) : ring + head;
    for (uint32_t s = 0; s < segments; s++) {
      uint16_t flags = (s > 0 ? WRITE : 0) | (s + 1 < segments ? NEXT : 0);
      table[s].addr = data;
      table[s].len = 64;
      data += 64;
      table[s].a = packed ? c : flags;
      table[s].b = packed ? (flags | AVAIL) : (indirect ? s : head + s) + 1;
    }
    if (indirect) {
      ring[head].addr = tables + c * 64;
      ring[head].len = segments * 16;
      ring[head].a = packed ? c : INDIRECT;
      ring[head].b = packed ? INDIRECT | AVAIL : 0;
    }
    avail[2 + c] = head;
  }
  struct desc *template = malloc(2 * SIZE * sizeof *template);
  uint32_t filled = chains * slots;
  memcpy(template, ring, filled * sizeof *ring);
  double *each = malloc(rounds * sizeof *each);
  uint64_t bytes = 0, interrupts = 0, done = 0;
  uint32_t fill_place = 0, fill_lap = 1;
  memset(ring, 0, SIZE * sizeof *ring * (packed ? 1 : 0));
  for (uint32_t r = 0; r < rounds; r++) {
    if (packed) {
      for (uint32_t i = 0; i < filled; i++) {
        struct desc d = template[i];
        if (!fill_lap) d.b ^= AVAIL | USED;
        ring[fill_place] = d;
        if (++fill_place == SIZE) fill_place = 0, fill_lap ^= 1;
      }
    } else {
      for (uint32_t c = 0; c < chains; c++) avail[2 + (uint16_t)(avail[1] + c) % SIZE] = c * slots;
      avail[1] += chains;
    }
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (;;) {
      uint32_t batch = 0;
      while (batch < BATCH && (packed ? pop_packed() : pop_split()) == 1) {
        bytes += chain.readable_length + chain.writable_length;
        if (packed)
          push_packed(chain.id, chain.slots, chain.writable_length);
        else
          push_split(chain.id, chain.writable_length);
        batch++;
      }
      if (batch == 0) break;
      done += batch;
      interrupts += packed ? publish_packed() : publish_split();
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    each[r] = ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / chains;
  }
  if (done != (uint64_t)chains * rounds || bytes != done * segments * 64 || interrupts == 0) return 1;
  qsort(each, rounds, sizeof *each, ascending);
  printf("%.3f\n", each[rounds / 2]);
  return 0;
}
