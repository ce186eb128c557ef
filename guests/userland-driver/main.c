/*
 * Drives a virtio device from userland. The function must be bound to vfio-pci or uio_pci_generic
 * before: see ./bind.
 */
#include "driver.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"usage: userland-driver [--access vfio|uio] [--packed] COMMAND ADDRESS [ARGUMENT...]\n"
	"  rng ADDRESS [BYTES]              random bytes, in hexadecimal\n"
	"  blk ADDRESS write SECTOR         writes standard input, prints its SHA-256\n"
	"  blk ADDRESS read SECTOR COUNT    prints the SHA-256 of sectors\n"
	"  rpmb ADDRESS key                 programs the authentication key of this example\n"
	"  rpmb ADDRESS counter             reads the write counter\n"
	"  rpmb ADDRESS write BLOCK TEXT    writes blocks of 256 bytes\n"
	"  rpmb ADDRESS read BLOCK COUNT    reads them, and checks who wrote the answer\n"
	"  rpmb ADDRESS replay BLOCK TEXT   sends the same write twice: the second is refused\n"
	"  rpmb ADDRESS forge BLOCK TEXT    writes with a wrong key: it is refused\n"
	"  fault ADDRESS unmapped|forbidden has the device use memory that it may not\n"
	"  storm ADDRESS ROUNDS             maps, uses, and unmaps memory again and again\n"
	"  hold ADDRESS COUNT               maps pages one by one, and keeps them until it is killed\n"
	"The address is that of a PCI function, as in 0000:00:03.0.\n";

static const struct {
	const char *name;
	int (*run)(struct function *f, bool packed, int argc, char **argv);
} commands[] = {
	{ "rng", rng_run },	{ "blk", blk_run },	{ "rpmb", rpmb_run },
	{ "fault", fault_run }, { "storm", storm_run }, { "hold", hold_run },
};

void fail(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "userland-driver: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

void fail_errno(const char *what)
{
	fail("%s: %s", what, strerror(errno));
}

static enum access access_of(const char *name)
{
	if (name && strcmp(name, "vfio") == 0)
		return ACCESS_VFIO;
	if (name && strcmp(name, "uio") == 0)
		return ACCESS_UIO;
	fail("--access takes vfio or uio");
}

int main(int argc, char **argv)
{
	static struct function function;
	enum access access = ACCESS_VFIO;
	bool packed = false;
	int at = 1;

	for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
		if (strcmp(argv[at], "--packed") == 0)
			packed = true;
		else if (strcmp(argv[at], "--access") == 0)
			access = access_of(argv[++at]);
		else
			fail("unknown option %s", argv[at]);
	}
	for (size_t i = 0; argc - at >= 2 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(argv[at], commands[i].name) != 0)
			continue;
		function_open(&function, access, argv[at + 1]);
		return commands[i].run(&function, packed, argc - at - 2, argv + at + 2);
	}
	fputs(usage, stderr);
	return 2;
}
