/* The entropy device (§5.4): it fills buffers with random bytes. */
#include "driver.h"

#include <stdlib.h>

#define PAGE 4096

int rng_run(struct function *f, bool packed, int argc, char **argv)
{
	static struct ring queue;
	struct device device;
	uint32_t wanted = argc > 0 ? (uint32_t)strtoul(argv[0], NULL, 0) : 32, written;

	if (virtio_type(f) != VIRTIO_ID_RNG)
		fail("%s is no entropy device", f->address);
	if (wanted == 0 || wanted > PAGE)
		fail("rng takes 1 to %d bytes", PAGE);
	virtio_open(&device, f, 0, packed);
	virtio_queue(&device, &queue, 0, 8);
	virtio_start(&device);
	uint8_t *page = dma_alloc(f, PAGE);
	for (uint32_t have = 0; have < wanted; have += written) {
		struct buffer buffer = { dma_address(f, page) + have, wanted - have, true };
		ring_add(&queue, &buffer, 1);
		ring_kick(&queue);
		ring_wait(&queue, &written);
		/* §5.4.6.1: at least one byte. */
		if (written == 0 || written > wanted - have)
			fail("the device says that it wrote %u bytes", written);
	}
	print_hex(page, wanted);
	return 0;
}
