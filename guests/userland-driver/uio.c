/*
 * Access by uio_pci_generic and sysfs. The device is given physical addresses: nothing keeps it, or a
 * mistake of this program, away from all other memory of the guest.
 */
#include "driver.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define HUGE_PAGE (2 << 20)

static int open_resource(const struct function *f, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", f->address, name);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* A BAR of ports, or none, cannot be mapped. */
static void map_resource(struct function *f, unsigned index)
{
	char name[16];
	struct stat stat;

	snprintf(name, sizeof(name), "resource%u", index);
	int fd = open_resource(f, name);
	if (fd < 0)
		return;
	if (fstat(fd, &stat) < 0)
		fail_errno(name);
	void *memory = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory != MAP_FAILED)
		f->bars[index] = (struct bar){ memory, (uint64_t)stat.st_size };
	close(fd);
}

/* Physical address of a page that is in memory (Documentation/admin-guide/mm/pagemap.rst). */
static uint64_t physical(const void *memory)
{
	uint64_t entry;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &entry, 8, (off_t)((uintptr_t)memory / PAGE * 8)) != 8)
		fail_errno("/proc/self/pagemap");
	close(fd);
	uint64_t frame = entry & ((1ULL << 55) - 1);
	if (!(entry >> 63) || frame == 0)
		fail("/proc/self/pagemap does not tell physical addresses: CAP_SYS_ADMIN is needed");
	return frame * PAGE;
}

/* A huge page is contiguous, and stays where it is. */
static void physical_pool(struct dma *dma)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_LOCKED;
	void *memory = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);

	if (memory == MAP_FAILED)
		fail_errno("a huge page (echo 1 >/proc/sys/vm/nr_hugepages)");
	*(volatile uint8_t *)memory = 0;
	*dma = (struct dma){ .memory = memory, .address = physical(memory), .size = HUGE_PAGE };
}

void uio_open(struct function *f)
{
	f->config = open_resource(f, "config");
	if (f->config < 0)
		fail_errno("config");
	physical_pool(&f->dma);
	for (unsigned i = 0; i < BARS; i++)
		map_resource(f, i);
}
