/* Shared by the parts of the driver. Section numbers refer to virtio 1.3. */
#ifndef USERLAND_DRIVER_H
#define USERLAND_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ends the program with one line. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* fail() with what errno says. */
_Noreturn void fail_errno(const char *what);

/* function.c: a PCI function that the kernel has handed to this program */

/* Who keeps the device away from the rest of the guest's memory, and by which files it is reached. */
enum access {
	ACCESS_VFIO,	/* the IOMMU; vfio-pci */
	ACCESS_UIO,	/* nobody; uio_pci_generic */
};

#define BARS 6

struct bar {
	uint8_t *memory;	/* NULL unless it is memory that can be mapped */
	uint64_t size;
};

/* Memory that both sides use. */
struct dma {
	uint8_t *memory;	/* where it is for this program */
	uint64_t address;	/* and for the device */
	size_t size, used;
};

struct function {
	enum access access;
	const char *address;
	int container, group, device, config;
	uint64_t config_offset;
	struct bar bars[BARS];
	struct dma dma;
};

void function_open(struct function *f, enum access access, const char *address);
uint32_t config_read(const struct function *f, unsigned offset, unsigned length);
void config_write(const struct function *f, unsigned offset, unsigned length, uint32_t value);
/* Takes zeroed memory from the pool, aligned to its size rounded up to a power of two, or a page. */
void *dma_alloc(struct function *f, size_t size);
/* Where the device finds it. */
uint64_t dma_address(const struct function *f, const void *memory);

/* vfio.c and uio.c: what function.c needs for each kind of access */
void vfio_open(struct function *f);
void uio_open(struct function *f);
/* Lets the device reach memory at an address, as far as VFIO_DMA_MAP_FLAG_ flags say, until vfio_unmap. */
void vfio_map(const struct function *f, void *memory, size_t size, uint64_t address, uint32_t flags);
void vfio_unmap(const struct function *f, uint64_t address, size_t size);

/* ring.c: a virtqueue, split (§2.7) or packed (§2.8) */

struct buffer {
	uint64_t address;
	uint32_t length;
	bool writable;		/* by the device */
};

#define RING_MAX 64

struct ring {
	bool packed;
	uint16_t index, size;
	volatile uint8_t *descriptors, *driver_area, *device_area;
	uint64_t descriptors_at, driver_at, device_at;
	uint16_t free;			/* descriptors */
	uint16_t idle;			/* packed: unused IDs */
	uint16_t ids[RING_MAX];		/* packed: a stack of them */
	uint16_t chain[RING_MAX];	/* descriptors of the chain with an ID */
	uint16_t next[RING_MAX];	/* split: free descriptors, a list */
	uint16_t head;			/* split: the first of it */
	uint16_t avail, used;		/* split: indices; packed: positions */
	bool avail_wrap, used_wrap;	/* packed */
	volatile uint16_t *notify;
	struct device *device;
};

/* Takes memory for a ring; size is a power of two. */
void ring_init(struct ring *r, struct function *f, uint16_t size, bool packed);
/* Makes a chain available, readable buffers first. Returns its ID. */
uint16_t ring_add(struct ring *r, const struct buffer *buffers, unsigned count);
/* Tells the device (§4.1.5.2). */
void ring_kick(const struct ring *r);
/* Takes a chain that the device has used. */
bool ring_take(struct ring *r, uint16_t *id, uint32_t *written);
/* Polls until there is one; fails when the device asks for a reset, or after a minute. Returns its ID. */
uint16_t ring_wait(struct ring *r, uint32_t *written);

/* virtio.c: a virtio device over PCI (§4.1) */

struct device {
	struct function *function;
	volatile uint8_t *common, *config;
	volatile uint8_t *notify;
	uint32_t notify_multiplier;
	uint64_t features;
	bool packed;
};

#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_RNG 4
#define VIRTIO_ID_RPMB 28

/* Type of the virtio device (§5) that a function is. */
unsigned virtio_type(const struct function *f);
/*
 * Finds its structures, resets it, and negotiates: VIRTIO_F_VERSION_1, what the access demands, and
 * VIRTIO_F_RING_PACKED if wanted, must be offered; of the device's own features it takes those wanted.
 * The device is reset again when the program ends.
 */
void virtio_open(struct device *d, struct function *f, uint64_t wanted, bool packed);
/* After virtio_open and before virtio_start. */
void virtio_queue(struct device *d, struct ring *r, uint16_t index, uint16_t size);
void virtio_start(struct device *d);
void virtio_reset(struct device *d);
bool virtio_needs_reset(const struct device *d);
/* The length is 1, 2, or 4; a 64-bit field has two halves. */
uint32_t virtio_config(const struct device *d, unsigned offset, unsigned length);

/* sha256.c */
#define SHA256_SIZE 32
struct sha256 {
	uint32_t state[8];
	uint64_t length;
	uint8_t block[64];
};
void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t length);
void sha256_final(struct sha256 *s, uint8_t digest[SHA256_SIZE]);
void hmac_init(struct sha256 *s, const uint8_t key[SHA256_SIZE]);
void hmac_final(struct sha256 *s, const uint8_t key[SHA256_SIZE], uint8_t mac[SHA256_SIZE]);
void print_hex(const uint8_t *bytes, size_t length);

/* Commands: arguments behind the address; each returns the exit status. */
int rng_run(struct function *f, bool packed, int argc, char **argv);
int blk_run(struct function *f, bool packed, int argc, char **argv);
int rpmb_run(struct function *f, bool packed, int argc, char **argv);
int fault_run(struct function *f, bool packed, int argc, char **argv);
int storm_run(struct function *f, bool packed, int argc, char **argv);
int hold_run(struct function *f, bool packed, int argc, char **argv);

#endif
