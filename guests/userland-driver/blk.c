/* The block device (§5.2): sectors to and from standard input and a checksum, several requests at a time. */
#include "driver.h"

#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512u
#define PIECE 4096u
#define DEPTH 8

/* One request: three buffers (§5.2.6). */
struct request {
	struct virtio_blk_outhdr header;
	uint8_t status;
	_Alignas(16) uint8_t data[PIECE];
	uint32_t length;
};

struct disk {
	struct device device;
	struct ring queue;
	struct request *requests;	/* DEPTH */
	struct request *by_id[RING_MAX];
	uint64_t sectors;
};

static void submit(struct disk *disk, struct request *request, uint32_t type, uint64_t sector, uint32_t length)
{
	const struct function *f = disk->device.function;
	uint64_t at = dma_address(f, request);
	struct buffer buffers[3] = { { at, sizeof(request->header), false } };
	unsigned count = 1;

	request->header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	request->status = 0xff;
	request->length = length;
	if (length > 0)
		buffers[count++] = (struct buffer){
			at + offsetof(struct request, data), length, type == VIRTIO_BLK_T_IN,
		};
	buffers[count++] = (struct buffer){ at + offsetof(struct request, status), 1, true };
	disk->by_id[ring_add(&disk->queue, buffers, count)] = request;
	ring_kick(&disk->queue);
}

/* Waits for all requests in flight, which may end in any order. */
static void finish(struct disk *disk, unsigned count)
{
	uint32_t written;

	for (unsigned i = 0; i < count; i++) {
		struct request *request = disk->by_id[ring_wait(&disk->queue, &written)];
		uint32_t length = request->header.type == VIRTIO_BLK_T_IN ? request->length : 0;
		if (request->status != VIRTIO_BLK_S_OK)
			fail("sector %llu: status %u", (unsigned long long)request->header.sector, request->status);
		if (written != length + 1)
			fail("the device says that it wrote %u bytes", written);
	}
}

static uint32_t read_piece(uint8_t *data)
{
	size_t length = 0;

	for (ssize_t n; length < PIECE; length += (size_t)n) {
		n = read(STDIN_FILENO, data + length, PIECE - length);
		if (n < 0)
			fail_errno("standard input");
		if (n == 0)
			break;
	}
	memset(data + length, 0, PIECE - length);
	return (uint32_t)((length + SECTOR - 1) / SECTOR * SECTOR);
}

static void write_sectors(struct disk *disk, uint64_t sector, struct sha256 *sum)
{
	for (bool ended = false; !ended;) {
		unsigned count = 0;
		for (; count < DEPTH && !ended; count++) {
			struct request *request = &disk->requests[count];
			uint32_t length = read_piece(request->data);
			ended = length < PIECE;
			if (length == 0)
				break;
			sha256_update(sum, request->data, length);
			submit(disk, request, VIRTIO_BLK_T_OUT, sector, length);
			sector += length / SECTOR;
		}
		finish(disk, count);
	}
	if (disk->device.features & (1ULL << VIRTIO_BLK_F_FLUSH)) {
		submit(disk, disk->requests, VIRTIO_BLK_T_FLUSH, 0, 0);
		finish(disk, 1);
	}
}

static void read_sectors(struct disk *disk, uint64_t sector, uint64_t sectors, struct sha256 *sum)
{
	while (sectors > 0) {
		unsigned count = 0;
		for (; count < DEPTH && sectors > 0; count++) {
			uint64_t some = sectors < PIECE / SECTOR ? sectors : PIECE / SECTOR;
			submit(disk, &disk->requests[count], VIRTIO_BLK_T_IN, sector, (uint32_t)some * SECTOR);
			sector += some;
			sectors -= some;
		}
		finish(disk, count);
		for (unsigned i = 0; i < count; i++)
			sha256_update(sum, disk->requests[i].data, disk->requests[i].length);
	}
}

int blk_run(struct function *f, bool packed, int argc, char **argv)
{
	static struct disk disk;
	struct sha256 sum;
	uint8_t digest[SHA256_SIZE];

	if (virtio_type(f) != VIRTIO_ID_BLOCK)
		fail("%s is no disk", f->address);
	bool writes = argc == 2 && strcmp(argv[0], "write") == 0;
	if (!writes && !(argc == 3 && strcmp(argv[0], "read") == 0))
		fail("blk takes write SECTOR, or read SECTOR COUNT");
	uint64_t sector = strtoull(argv[1], NULL, 0);
	virtio_open(&disk.device, f, 1ULL << VIRTIO_BLK_F_FLUSH, packed);
	disk.sectors = virtio_config(&disk.device, 0, 4) | (uint64_t)virtio_config(&disk.device, 4, 4) << 32;
	virtio_queue(&disk.device, &disk.queue, 0, RING_MAX);
	if (disk.queue.size < 3 * DEPTH)
		fail("the queue of %s is too small", f->address);
	disk.requests = dma_alloc(f, DEPTH * sizeof(struct request));
	virtio_start(&disk.device);
	sha256_init(&sum);
	if (writes)
		write_sectors(&disk, sector, &sum);
	else
		read_sectors(&disk, sector, strtoull(argv[2], NULL, 0), &sum);
	sha256_final(&sum, digest);
	printf("%llu sectors, of which these have SHA-256 ", (unsigned long long)disk.sectors);
	print_hex(digest, sizeof(digest));
	return 0;
}
