/*
 * Access by vfio-pci: a function belongs to an IOMMU group, a group to a container, and a container
 * has the addresses that its devices see (Documentation/driver-api/vfio.rst).
 */
#include "driver.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Any address will do, as far as it is none of the doorbells of MSI. */
#define POOL_ADDRESS 0x10000000
#define POOL_SIZE (2 << 20)

static int open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail_errno(path);
	return fd;
}

static int open_group(const struct function *f)
{
	char path[PATH_MAX], link[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", f->address);
	ssize_t length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		fail_errno(path);
	link[length] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	return open_file(path);
}

static void map_bar(struct function *f, unsigned index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(f->device, VFIO_DEVICE_GET_REGION_INFO, &info) < 0)
		fail_errno("VFIO_DEVICE_GET_REGION_INFO");
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP) || info.size == 0)
		return;
	void *memory = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, f->device, (off_t)info.offset);
	if (memory == MAP_FAILED)
		fail_errno("mapping a BAR");
	f->bars[index] = (struct bar){ memory, info.size };
}

void vfio_map(const struct function *f, void *memory, size_t size, uint64_t address, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)memory,
		.iova = address,
		.size = size,
	};

	if (ioctl(f->container, VFIO_IOMMU_MAP_DMA, &map) < 0)
		fail_errno("VFIO_IOMMU_MAP_DMA");
}

void vfio_unmap(const struct function *f, uint64_t address, size_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = address, .size = size };

	if (ioctl(f->container, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0 || unmap.size != size)
		fail_errno("VFIO_IOMMU_UNMAP_DMA");
}

static void make_pool(struct function *f)
{
	void *memory = mmap(NULL, POOL_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail_errno("mmap");
	vfio_map(f, memory, POOL_SIZE, POOL_ADDRESS, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	f->dma = (struct dma){ .memory = memory, .address = POOL_ADDRESS, .size = POOL_SIZE };
}

void vfio_open(struct function *f)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_region_info info = { .argsz = sizeof(info), .index = VFIO_PCI_CONFIG_REGION_INDEX };

	f->container = open_file("/dev/vfio/vfio");
	f->group = open_group(f);
	if (ioctl(f->group, VFIO_GROUP_GET_STATUS, &status) < 0)
		fail_errno("VFIO_GROUP_GET_STATUS");
	/* Its devices could reach each other's memory, so all must have such a driver, or none. */
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		fail("%s shares its IOMMU group with a device that a driver of the kernel uses", f->address);
	if (ioctl(f->group, VFIO_GROUP_SET_CONTAINER, &f->container) < 0)
		fail_errno("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(f->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
		fail_errno("VFIO_SET_IOMMU (vfio_iommu_type1 needs allow_unsafe_interrupts=1)");
	make_pool(f);
	f->device = ioctl(f->group, VFIO_GROUP_GET_DEVICE_FD, f->address);
	if (f->device < 0)
		fail_errno("VFIO_GROUP_GET_DEVICE_FD");
	if (ioctl(f->device, VFIO_DEVICE_GET_REGION_INFO, &info) < 0)
		fail_errno("VFIO_DEVICE_GET_REGION_INFO");
	f->config = f->device;
	f->config_offset = info.offset;
	for (unsigned i = 0; i < BARS; i++)
		map_bar(f, VFIO_PCI_BAR0_REGION_INDEX + i);
}
