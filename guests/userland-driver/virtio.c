/* A virtio device over PCI (§4.1): where its registers are, and how it is initialized (§3.1.1). */
#include "driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#define PCI_VENDOR 0
#define PCI_DEVICE 2
#define PCI_CAPABILITY_LIST 0x34
#define PCI_CAP_ID_VNDR 9
#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_MODERN 0x1040

static struct device opened;

#define COMMON(field) offsetof(struct virtio_pci_common_cfg, field)

/* Registers are accessed in their own width (§4.1.3.1). */
static uint8_t get8(const struct device *d, size_t at) { return d->common[at]; }
static uint16_t get16(const struct device *d, size_t at) { return *(volatile uint16_t *)(d->common + at); }
static uint32_t get32(const struct device *d, size_t at) { return *(volatile uint32_t *)(d->common + at); }
static void put8(const struct device *d, size_t at, uint8_t v) { d->common[at] = v; }
static void put16(const struct device *d, size_t at, uint16_t v) { *(volatile uint16_t *)(d->common + at) = v; }
static void put32(const struct device *d, size_t at, uint32_t v) { *(volatile uint32_t *)(d->common + at) = v; }

/* A 64-bit register is written as two of 32 bits. */
static void put64(const struct device *d, size_t at, uint64_t value)
{
	put32(d, at, (uint32_t)value);
	put32(d, at + 4, (uint32_t)(value >> 32));
}

unsigned virtio_type(const struct function *f)
{
	unsigned vendor = config_read(f, PCI_VENDOR, 2), device = config_read(f, PCI_DEVICE, 2);

	if (vendor != VIRTIO_VENDOR || device < VIRTIO_MODERN || device > VIRTIO_MODERN + 63)
		fail("%s is no modern virtio device, but %04x:%04x", f->address, vendor, device);
	return device - VIRTIO_MODERN;
}

/* The structure of a capability (§4.1.4), or NULL when it is not in a BAR that is mapped. */
static volatile uint8_t *structure(const struct function *f, unsigned cap, uint32_t least)
{
	uint32_t bar = config_read(f, cap + offsetof(struct virtio_pci_cap, bar), 1);
	uint32_t offset = config_read(f, cap + offsetof(struct virtio_pci_cap, offset), 4);
	uint32_t length = config_read(f, cap + offsetof(struct virtio_pci_cap, length), 4);

	if (bar >= BARS || f->bars[bar].memory == NULL || length < least)
		return NULL;
	if (offset > f->bars[bar].size || length > f->bars[bar].size - offset)
		return NULL;
	return f->bars[bar].memory + offset;
}

/* Of several structures of a type the first that can be used is used (§4.1.4.1). */
static void find_structures(struct device *d, const struct function *f)
{
	unsigned cap = config_read(f, PCI_CAPABILITY_LIST, 1) & ~3u;

	for (unsigned count = 0; cap != 0 && count < 48; count++) {
		if (config_read(f, cap, 1) == PCI_CAP_ID_VNDR) {
			switch (config_read(f, cap + offsetof(struct virtio_pci_cap, cfg_type), 1)) {
			case VIRTIO_PCI_CAP_COMMON_CFG:
				if (!d->common)
					d->common = structure(f, cap, sizeof(struct virtio_pci_common_cfg));
				break;
			case VIRTIO_PCI_CAP_DEVICE_CFG:
				if (!d->config)
					d->config = structure(f, cap, 1);
				break;
			case VIRTIO_PCI_CAP_NOTIFY_CFG:
				if (d->notify)
					break;
				d->notify = structure(f, cap, 2);
				d->notify_multiplier = config_read(f, cap + sizeof(struct virtio_pci_cap), 4);
				break;
			}
		}
		cap = config_read(f, cap + 1, 1) & ~3u;
	}
	if (!d->common || !d->notify)
		fail("%s has no registers in memory", f->address);
}

void virtio_reset(struct device *d)
{
	put8(d, COMMON(device_status), 0);
	/* The device stops using our memory before it says 0 (§4.1.4.3.2). */
	while (get8(d, COMMON(device_status)) != 0)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void add_status(const struct device *d, uint8_t bits)
{
	put8(d, COMMON(device_status), get8(d, COMMON(device_status)) | bits);
}

bool virtio_needs_reset(const struct device *d)
{
	return (get8(d, COMMON(device_status)) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
}

static uint64_t offered_features(const struct device *d)
{
	uint64_t features = 0;

	for (uint32_t half = 0; half < 2; half++) {
		put32(d, COMMON(device_feature_select), half);
		features |= (uint64_t)get32(d, COMMON(device_feature)) << (32 * half);
	}
	return features;
}

/* On every way out: the kernel gets the memory back, and the device must not write to it any more. */
static void release(void)
{
	virtio_reset(&opened);
}

void virtio_open(struct device *d, struct function *f, uint64_t wanted, bool packed)
{
	uint64_t needed = 1ULL << VIRTIO_F_VERSION_1;

	*d = (struct device){ .function = f, .packed = packed };
	find_structures(d, f);
	if (opened.common == NULL)
		atexit(release);
	opened = *d;
	virtio_reset(d);
	add_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	add_status(d, VIRTIO_CONFIG_S_DRIVER);
	/* Our addresses are not physical ones (§6.1). */
	if (f->access == ACCESS_VFIO)
		needed |= 1ULL << VIRTIO_F_ACCESS_PLATFORM;
	if (packed)
		needed |= 1ULL << VIRTIO_F_RING_PACKED;
	uint64_t offered = offered_features(d);
	if ((offered & needed) != needed)
		fail("%s lacks the features %#llx", f->address, (unsigned long long)(needed & ~offered));
	d->features = needed | (offered & wanted);
	for (uint32_t half = 0; half < 2; half++) {
		put32(d, COMMON(guest_feature_select), half);
		put32(d, COMMON(guest_feature), (uint32_t)(d->features >> (32 * half)));
	}
	add_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	if (!(get8(d, COMMON(device_status)) & VIRTIO_CONFIG_S_FEATURES_OK))
		fail("%s refuses the features %#llx", f->address, (unsigned long long)d->features);
}

void virtio_queue(struct device *d, struct ring *r, uint16_t index, uint16_t size)
{
	put16(d, COMMON(queue_select), index);
	uint16_t max = get16(d, COMMON(queue_size));
	if (max == 0)
		fail("%s has no queue %u", d->function->address, index);
	while (size > max)
		size /= 2;
	ring_init(r, d->function, size, d->packed);
	put16(d, COMMON(queue_size), size);
	/* No interrupts: we poll (§4.1.5.1.2.2). */
	put16(d, COMMON(queue_msix_vector), VIRTIO_MSI_NO_VECTOR);
	put64(d, COMMON(queue_desc_lo), r->descriptors_at);
	put64(d, COMMON(queue_avail_lo), r->driver_at);
	put64(d, COMMON(queue_used_lo), r->device_at);
	uint32_t offset = get16(d, COMMON(queue_notify_off));
	r->notify = (volatile uint16_t *)(d->notify + offset * d->notify_multiplier);
	r->index = index;
	r->device = d;
	put16(d, COMMON(queue_enable), 1);
}

void virtio_start(struct device *d)
{
	add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
}

uint32_t virtio_config(const struct device *d, unsigned offset, unsigned length)
{
	if (!d->config)
		fail("%s has no device configuration", d->function->address);
	switch (length) {
	case 1:
		return d->config[offset];
	case 2:
		return *(volatile uint16_t *)(d->config + offset);
	default:
		return *(volatile uint32_t *)(d->config + offset);
	}
}
