/*
 * What the IOMMU is for: the device is given memory that it may not use, and nothing happens but a
 * page fault in the kernel's log, and a device that needs a reset.
 */
#include "driver.h"

#include <linux/vfio.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096
/* Behind the pool. */
#define ELSEWHERE 0x20000000
#define FILL 0x5a

static uint8_t *new_page(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		fail_errno("mmap");
	return page;
}

static void start(struct device *device, struct ring *queue, struct function *f, bool packed)
{
	/* A device that is initialized again has new rings in the same memory. */
	f->dma.used = 0;
	virtio_open(device, f, 0, packed);
	virtio_queue(device, queue, 0, 8);
	virtio_start(device);
}

/* An entropy device writes to the address, a disk reads its request's header there. */
static void use(struct function *f, struct ring *queue, unsigned type, uint64_t address)
{
	struct buffer buffers[2] = { { address, 16, type == VIRTIO_ID_RNG } };
	unsigned count = 1;

	if (type == VIRTIO_ID_BLOCK)
		buffers[count++] = (struct buffer){ dma_address(f, dma_alloc(f, 1)), 1, true };
	ring_add(queue, buffers, count);
	ring_kick(queue);
}

static void await_broken(const struct device *device, struct ring *queue)
{
	uint32_t written;
	uint16_t id;

	for (int ms = 0; !virtio_needs_reset(device); ms++) {
		if (ring_take(queue, &id, &written))
			fail("the device used it");
		if (ms == 60000)
			fail("no answer");
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	printf("the device needs a reset\n");
}

int fault_run(struct function *f, bool packed, int argc, char **argv)
{
	static struct ring queue;
	struct device device;
	unsigned type = virtio_type(f);
	bool unmapped = argc == 1 && strcmp(argv[0], "unmapped") == 0;
	uint32_t written;

	if (f->access != ACCESS_VFIO || (type != VIRTIO_ID_RNG && type != VIRTIO_ID_BLOCK))
		fail("fault takes an entropy device or a disk behind an IOMMU");
	if (!unmapped && !(argc == 1 && strcmp(argv[0], "forbidden") == 0))
		fail("fault takes unmapped or forbidden");
	uint8_t *page = new_page();
	memset(page, FILL, PAGE);
	/* Which half of the permissions is missing depends on what the device does. */
	uint32_t other = type == VIRTIO_ID_RNG ? VFIO_DMA_MAP_FLAG_READ : VFIO_DMA_MAP_FLAG_WRITE;
	vfio_map(f, page, PAGE, ELSEWHERE, other);
	if (unmapped)
		vfio_unmap(f, ELSEWHERE, PAGE);
	start(&device, &queue, f, packed);
	use(f, &queue, type, ELSEWHERE);
	await_broken(&device, &queue);
	for (int i = 0; i < PAGE; i++) {
		if (page[i] != FILL)
			fail("the page was written to");
	}
	printf("the page is as it was\n");
	start(&device, &queue, f, packed);
	if (type == VIRTIO_ID_RNG) {
		use(f, &queue, type, dma_address(f, dma_alloc(f, 16)));
	} else {
		/* An empty write. */
		struct virtio_blk_outhdr *header = dma_alloc(f, sizeof(*header));
		header->type = VIRTIO_BLK_T_OUT;
		use(f, &queue, type, dma_address(f, header));
	}
	ring_wait(&queue, &written);
	printf("it works again\n");
	return 0;
}
