/*
 * Becomes a user of the guest: IDs from /etc/passwd, supplementary groups from /etc/group, HOME, USER
 * and LOGNAME. Read here: a static C library has no other sources of users (NSS) anyway.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GROUPS_MAX 1024

/* Splits a line at its colons. Returns 0 when it has fewer fields. */
static int split(char *line, char **fields, int count)
{
	line[strcspn(line, "\n")] = 0;
	for (int i = 0; i < count; i++) {
		fields[i] = strsep(&line, ":");
		if (!fields[i])
			return 0;
	}
	return 1;
}

/* Returns 0 when it is no number. */
static int number(const char *text, unsigned *value)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);
	*value = (unsigned)number;
	return text[0] >= '0' && text[0] <= '9' && *end == 0 && number < UINT32_MAX;
}

static int is_member(char *names, const char *user)
{
	for (char *name; (name = strsep(&names, ","));)
		if (strcmp(name, user) == 0)
			return 1;
	return 0;
}

/* Returns how many groups name the user, or -1. */
static int groups_of(const char *user, gid_t *groups)
{
	FILE *file = fopen("/etc/group", "re");
	char *line = NULL, *fields[4];
	size_t size = 0;
	int count = 0;
	while (file && getline(&line, &size, file) > 0 && count < GROUPS_MAX)
		if (split(line, fields, 4) && is_member(fields[3], user) && number(fields[2], &groups[count]))
			count++;
	free(line);
	if (file)
		fclose(file);
	return count;
}

/* Returns 0 or an errno: ESRCH for a user that is not there. */
int become(const char *user)
{
	static gid_t groups[GROUPS_MAX + 1];
	FILE *file = fopen("/etc/passwd", "re");
	char *line = NULL, *fields[7];
	size_t size = 0;
	unsigned uid, gid;
	int found = 0;
	while (file && !found && getline(&line, &size, file) > 0)
		found = split(line, fields, 7) && strcmp(fields[0], user) == 0 && number(fields[2], &uid) &&
			number(fields[3], &gid);
	if (file)
		fclose(file);
	if (!found)
		return ESRCH;
	int count = groups_of(user, groups);
	groups[count++] = gid;
	/* Its streams may be opened again by their names, such as /dev/stdout. */
	for (int fd = 0; fd < 3; fd++)
		if (fchown(fd, uid, (gid_t)-1) < 0 && errno != EPERM)
			return errno;
	if (setgroups((size_t)count, groups) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
		return errno;
	setenv("HOME", fields[5], 1);
	setenv("USER", user, 1);
	setenv("LOGNAME", user, 1);
	free(line);
	return 0;
}
