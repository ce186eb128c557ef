/*
 * Virtqueues from the driver's side. The device is not trusted: what it writes is checked before it is
 * used as an index. All memory barriers are x86's, where only the compiler reorders stores, or loads.
 */
#include "driver.h"

#include <linux/virtio_ring.h>
#include <string.h>
#include <time.h>

#define AVAIL (1 << VRING_PACKED_DESC_F_AVAIL)
#define USED (1 << VRING_PACKED_DESC_F_USED)

static volatile struct vring_desc *split_descriptors(const struct ring *r)
{
	return (volatile struct vring_desc *)r->descriptors;
}

static volatile struct vring_packed_desc *packed_descriptors(const struct ring *r)
{
	return (volatile struct vring_packed_desc *)r->descriptors;
}

void ring_init(struct ring *r, struct function *f, uint16_t size, bool packed)
{
	/* §2.7 and §2.8: both have descriptors of 16 bytes; the driver area is event suppression if packed. */
	void *descriptors = dma_alloc(f, size * 16u);
	void *driver = dma_alloc(f, packed ? 4 : 6 + 2u * size);
	void *device = dma_alloc(f, packed ? 4 : 6 + 8u * size);

	memset(r, 0, sizeof(*r));
	r->packed = packed;
	r->size = r->free = r->idle = size;
	r->descriptors = descriptors;
	r->driver_area = driver;
	r->device_area = device;
	r->descriptors_at = dma_address(f, descriptors);
	r->driver_at = dma_address(f, driver);
	r->device_at = dma_address(f, device);
	r->avail_wrap = r->used_wrap = true;
	for (uint16_t i = 0; i < size; i++) {
		r->ids[i] = i;
		r->next[i] = (uint16_t)(i + 1);
	}
	/* We poll, and want no interrupts (§2.7.7, §2.8.10). */
	if (packed)
		((volatile struct vring_packed_desc_event *)driver)->flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	else
		((volatile struct vring_avail *)driver)->flags = VRING_AVAIL_F_NO_INTERRUPT;
}

/* §2.7.13: fill descriptors, write the head into the ring, then publish the index. */
static uint16_t split_add(struct ring *r, const struct buffer *buffers, unsigned count)
{
	volatile struct vring_avail *avail = (volatile struct vring_avail *)r->driver_area;
	uint16_t head = r->head, at = head;

	for (unsigned i = 0; i < count; i++) {
		volatile struct vring_desc *desc = &split_descriptors(r)[at];
		desc->addr = buffers[i].address;
		desc->len = buffers[i].length;
		desc->flags = (uint16_t)((buffers[i].writable ? VRING_DESC_F_WRITE : 0) |
					 (i + 1 < count ? VRING_DESC_F_NEXT : 0));
		desc->next = r->next[at];
		at = r->next[at];
	}
	r->head = at;
	avail->ring[r->avail & (r->size - 1)] = head;
	r->avail++;
	__atomic_store_n((uint16_t *)&avail->idx, r->avail, __ATOMIC_RELEASE);
	return head;
}

/*
 * §2.8.6: a descriptor is available when AVAIL is our wrap counter and USED is not. The flags of the
 * first are written last: they make the whole chain available.
 */
static uint16_t packed_add(struct ring *r, const struct buffer *buffers, unsigned count)
{
	uint16_t id = r->ids[--r->idle], first = r->avail, first_flags = 0;

	for (unsigned i = 0; i < count; i++) {
		volatile struct vring_packed_desc *desc = &packed_descriptors(r)[r->avail];
		uint16_t flags = (uint16_t)((r->avail_wrap ? AVAIL : USED) |
					    (buffers[i].writable ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < count ? VRING_DESC_F_NEXT : 0));
		desc->addr = buffers[i].address;
		desc->len = buffers[i].length;
		desc->id = id;
		if (i == 0)
			first_flags = flags;
		else
			desc->flags = flags;
		if (++r->avail == r->size) {
			r->avail = 0;
			r->avail_wrap = !r->avail_wrap;
		}
	}
	__atomic_store_n((uint16_t *)&packed_descriptors(r)[first].flags, first_flags, __ATOMIC_RELEASE);
	return id;
}

uint16_t ring_add(struct ring *r, const struct buffer *buffers, unsigned count)
{
	if (count > r->free)
		fail("queue %u is full", r->index);
	uint16_t id = r->packed ? packed_add(r, buffers, count) : split_add(r, buffers, count);
	r->chain[id] = (uint16_t)count;
	r->free = (uint16_t)(r->free - count);
	return id;
}

void ring_kick(const struct ring *r)
{
	/* The device decides whether it wants to be told; its decision is read after our index is visible. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	bool wanted;
	if (r->packed)
		wanted = ((volatile struct vring_packed_desc_event *)r->device_area)->flags !=
			 VRING_PACKED_EVENT_FLAG_DISABLE;
	else
		wanted = !(((volatile struct vring_used *)r->device_area)->flags & VRING_USED_F_NO_NOTIFY);
	if (wanted)
		*r->notify = r->index;
}

static bool split_take(struct ring *r, uint16_t *id, uint32_t *written)
{
	volatile struct vring_used *used = (volatile struct vring_used *)r->device_area;

	if (__atomic_load_n((uint16_t *)&used->idx, __ATOMIC_ACQUIRE) == r->used)
		return false;
	uint32_t head = used->ring[r->used & (r->size - 1)].id;
	*written = used->ring[r->used & (r->size - 1)].len;
	r->used++;
	if (head >= r->size || r->chain[head] == 0)
		fail("the device used a chain that it was not given");
	uint16_t last = (uint16_t)head;
	for (unsigned i = 1; i < r->chain[head]; i++)
		last = r->next[last];
	r->next[last] = r->head;
	r->head = (uint16_t)head;
	*id = (uint16_t)head;
	return true;
}

/* §2.8.6: used when both bits are the wrap counter of our side. */
static bool packed_take(struct ring *r, uint16_t *id, uint32_t *written)
{
	volatile struct vring_packed_desc *desc = &packed_descriptors(r)[r->used];
	uint16_t flags = __atomic_load_n((uint16_t *)&desc->flags, __ATOMIC_ACQUIRE);

	if (((flags & AVAIL) != 0) != r->used_wrap || ((flags & USED) != 0) != r->used_wrap)
		return false;
	*id = desc->id;
	*written = desc->len;
	if (*id >= r->size || r->chain[*id] == 0)
		fail("the device used a chain that it was not given");
	r->used = (uint16_t)(r->used + r->chain[*id]);
	if (r->used >= r->size) {
		r->used = (uint16_t)(r->used - r->size);
		r->used_wrap = !r->used_wrap;
	}
	return true;
}

bool ring_take(struct ring *r, uint16_t *id, uint32_t *written)
{
	if (!(r->packed ? packed_take(r, id, written) : split_take(r, id, written)))
		return false;
	r->free = (uint16_t)(r->free + r->chain[*id]);
	r->chain[*id] = 0;
	if (r->packed)
		r->ids[r->idle++] = *id;
	return true;
}

/* The device may share our processor: after a while we let it have it. */
uint16_t ring_wait(struct ring *r, uint32_t *written)
{
	uint16_t id;

	for (unsigned polls = 0; !ring_take(r, &id, written); polls++) {
		if (polls < 1000) {
			__builtin_ia32_pause();
			continue;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
		/* Reading a register is an exit from the guest, which polls of memory are not. */
		if (polls % 64 == 0 && virtio_needs_reset(r->device))
			fail("the device needs a reset");
		if (polls > 600000)
			fail("no answer");
	}
	return id;
}
