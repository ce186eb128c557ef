/* A PCI function: its configuration space, BARs, and memory that it reaches. */
#include "driver.h"

#include <string.h>
#include <unistd.h>

#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY 2
#define PCI_COMMAND_MASTER 4
#define PAGE 4096

void function_open(struct function *f, enum access access, const char *address)
{
	memset(f, 0, sizeof(*f));
	f->access = access;
	f->address = address;
	if (access == ACCESS_UIO)
		uio_open(f);
	else
		vfio_open(f);
	/* A device that is not bus master reads and writes no memory (PCI 3.0 §6.2.2). */
	uint32_t command = config_read(f, PCI_COMMAND, 2);
	config_write(f, PCI_COMMAND, 2, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* Configuration space is little-endian, as this processor. */
uint32_t config_read(const struct function *f, unsigned offset, unsigned length)
{
	uint32_t value = 0;

	if (pread(f->config, &value, length, (off_t)(f->config_offset + offset)) != (ssize_t)length)
		fail_errno("reading the configuration space");
	return value;
}

void config_write(const struct function *f, unsigned offset, unsigned length, uint32_t value)
{
	if (pwrite(f->config, &value, length, (off_t)(f->config_offset + offset)) != (ssize_t)length)
		fail_errno("writing the configuration space");
}

void *dma_alloc(struct function *f, size_t size)
{
	struct dma *dma = &f->dma;
	size_t align = 16;

	while (align < size && align < PAGE)
		align *= 2;
	dma->used = (dma->used + align - 1) & ~(align - 1);
	if (size > dma->size - dma->used)
		fail("out of memory for the device");
	void *memory = dma->memory + dma->used;
	dma->used += size;
	memset(memory, 0, size);
	return memory;
}

uint64_t dma_address(const struct function *f, const void *memory)
{
	return f->dma.address + (uint64_t)((const uint8_t *)memory - f->dma.memory);
}
