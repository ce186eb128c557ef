/* Mappings that come and go, each used once; and many that stay until the program ends. */
#include "driver.h"

#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
/* Behind the pool. */
#define ELSEWHERE 0x20000000
#define READ_WRITE (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

static uint8_t *new_pages(size_t size)
{
	void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		fail_errno("mmap");
	return pages;
}

int storm_run(struct function *f, bool packed, int argc, char **argv)
{
	static struct ring queue;
	struct device device;
	unsigned long rounds = argc == 1 ? strtoul(argv[0], NULL, 0) : 0;
	uint32_t written;

	if (f->access != ACCESS_VFIO || virtio_type(f) != VIRTIO_ID_RNG || rounds == 0)
		fail("storm takes an entropy device behind an IOMMU, and a number of rounds");
	virtio_open(&device, f, 0, packed);
	virtio_queue(&device, &queue, 0, 8);
	virtio_start(&device);
	uint8_t *page = new_pages(PAGE);
	for (unsigned long i = 0; i < rounds; i++) {
		/* Another address each time, so that no stale one is right by chance. */
		uint64_t address = ELSEWHERE + i % 4096 * PAGE;
		memset(page, 0, 64);
		vfio_map(f, page, PAGE, address, READ_WRITE);
		struct buffer buffer = { address, 64, true };
		ring_add(&queue, &buffer, 1);
		ring_kick(&queue);
		ring_wait(&queue, &written);
		vfio_unmap(f, address, PAGE);
		uint8_t seen = 0;
		for (int at = 0; at < 64; at++)
			seen |= page[at];
		if (written == 0 || written > 64 || seen == 0)
			fail("round %lu: %u bytes", i, written);
	}
	printf("%lu rounds\n", rounds);
	return 0;
}

int hold_run(struct function *f, bool packed, int argc, char **argv)
{
	unsigned long count = argc == 1 ? strtoul(argv[0], NULL, 0) : 0;

	(void)packed;
	if (f->access != ACCESS_VFIO || count == 0 || count > 32768)
		fail("hold takes a device behind an IOMMU, and a number of mappings up to 32768");
	uint8_t *pages = new_pages(count * PAGE);
	/* Gaps keep the mappings apart. */
	for (unsigned long i = 0; i < count; i++)
		vfio_map(f, pages + i * PAGE, PAGE, ELSEWHERE + 2 * i * PAGE, READ_WRITE);
	printf("%lu mappings\n", count);
	fflush(stdout);
	for (;;)
		pause();
}
