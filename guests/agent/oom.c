/*
 * When memory runs out the kernel is to end what ran, not the agent: without it nobody could ask
 * the guest what happened. Without the right to it (CAP_SYS_RESOURCE) all stays as it is.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "/proc/self/oom_score_adj"
#define NEVER "-1000"

/* What the agent was started with. */
static char inherited[16];

static void adjust(const char *value)
{
	int fd = open(FILE_NAME, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, value, strlen(value)) < 0) {
		/* Not allowed. */
	}
	close(fd);
}

void oom_protect(void)
{
	int fd = open(FILE_NAME, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t length = read(fd, inherited, sizeof inherited - 1);
	close(fd);
	if (length > 0)
		adjust(NEVER);
}

void oom_unprotect(void)
{
	if (inherited[0] != 0)
		adjust(inherited);
}
