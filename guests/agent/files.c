/*
 * One operation on the guest's files, for the host (src/agent/guest-files.ts): nodevmm-agent files OPERATION
 * PATH [ARGUMENT...]. Data comes and goes by standard input and output. Exits with 0 or an errno, with the
 * path that it is about on standard error where that is not PATH.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 65536
#define DEPTH_MAX 512

/* A record of a copied tree, in depth-first order, before its name and its data; little-endian as x86 is. */
struct __attribute__((packed)) record {
	uint8_t type; /* 'D' begins a folder, 'U' ends it, 'F' is a file, 'L' a symbolic link, 'E' the end */
	uint32_t mode, name_length;
	uint64_t size;
};

static unsigned long number(const char *text) { return text ? strtoul(text, NULL, 10) : 0; }

static int put(const void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = write(1, (const char *)data + done, length - done);
		if (count < 0)
			return -1;
		done += (size_t)count;
	}
	return 0;
}

static int get(void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = read(0, (char *)data + done, length - done);
		if (count == 0)
			errno = EPROTO; /* the host has gone */
		if (count <= 0)
			return -1;
		done += (size_t)count;
	}
	return 0;
}

/* Copies up to the end or most bytes. Returns how many it did, or -1. */
static int64_t copy(int from, int to, uint64_t most)
{
	static char chunk[CHUNK];
	uint64_t done = 0;
	while (done < most) {
		ssize_t count = read(from, chunk, most - done < CHUNK ? most - done : CHUNK);
		if (count < 0)
			return -1;
		if (count == 0)
			break;
		for (ssize_t put = 0, part; put < count; put += part)
			if ((part = write(to, chunk + put, (size_t)(count - put))) < 0)
				return -1;
		done += (uint64_t)count;
	}
	return (int64_t)done;
}

static int put_status(const struct stat *s)
{
	const struct timespec *times[] = { &s->st_atim, &s->st_mtim, &s->st_ctim };
	uint64_t fields[13] = { s->st_dev,  s->st_mode, s->st_nlink, s->st_uid,	      s->st_gid,
				s->st_rdev, s->st_ino,	(uint64_t)s->st_size, (uint64_t)s->st_blksize,
				(uint64_t)s->st_blocks };
	for (int i = 0; i < 3; i++)
		fields[10 + i] = (uint64_t)(times[i]->tv_sec * 1000000000 + times[i]->tv_nsec);
	return put(fields, sizeof fields);
}

static int op_stat(char **a)
{
	struct stat s;
	return stat(a[0], &s) < 0 ? -1 : put_status(&s);
}

static int op_lstat(char **a)
{
	struct stat s;
	return lstat(a[0], &s) < 0 ? -1 : put_status(&s);
}

/* PATH START LENGTH */
static int op_read(char **a)
{
	int fd = open(a[0], O_RDONLY | O_CLOEXEC);
	unsigned long start = number(a[1]);
	if (fd < 0 || (start > 0 && lseek(fd, (off_t)start, SEEK_SET) < 0))
		return -1;
	return copy(fd, 1, number(a[2])) < 0 ? -1 : 0;
}

/* PATH FLAGS MODE START */
static int op_write(char **a)
{
	int fd = open(a[0], (int)number(a[1]) | O_CLOEXEC | O_NOCTTY, (mode_t)number(a[2]));
	unsigned long start = number(a[3]);
	if (fd < 0 || (start > 0 && lseek(fd, (off_t)start, SEEK_SET) < 0))
		return -1;
	return copy(0, fd, UINT64_MAX) < 0 ? -1 : close(fd);
}

static int op_readdir(char **a)
{
	DIR *folder = opendir(a[0]);
	if (!folder)
		return -1;
	for (struct dirent *e; (errno = 0, e = readdir(folder));) {
		struct stat s;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (e->d_type == DT_UNKNOWN && fstatat(dirfd(folder), e->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0)
			e->d_type = IFTODT(s.st_mode);
		if (put(&e->d_type, 1) < 0 || put(e->d_name, strlen(e->d_name) + 1) < 0)
			return -1;
	}
	return errno ? -1 : 0;
}

static int op_readlink(char **a)
{
	char target[PATH_MAX];
	ssize_t length = readlink(a[0], target, sizeof target);
	return length < 0 ? -1 : put(target, (size_t)length);
}

static int op_mkdir(char **a) { return mkdir(a[0], (mode_t)number(a[1])); }
static int op_chmod(char **a) { return chmod(a[0], (mode_t)number(a[1])); }
static int op_access(char **a) { return access(a[0], (int)number(a[1])); }
static int op_rename(char **a) { return rename(a[0], a[1]); }
static int op_symlink(char **a) { return symlink(a[1], a[0]); }
static int op_unlink(char **a) { return unlink(a[0]); }

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *at)
{
	(void)s, (void)kind, (void)at;
	return remove(path);
}

static int op_remove(char **a) { return nftw(a[0], remove_one, 64, FTW_DEPTH | FTW_PHYS); }

/* A first record says that it watches; then `r` for a name that came or went, `c` for a change. */
static int op_watch(char **a)
{
	char buffer[CHUNK] __attribute__((aligned(8)));
	uint32_t names = IN_CREATE | IN_DELETE | IN_MOVE | IN_DELETE_SELF | IN_MOVE_SELF;
	int fd = inotify_init1(IN_CLOEXEC);
	if (fd < 0 || inotify_add_watch(fd, a[0], names | IN_MODIFY | IN_ATTRIB) < 0 || put("w", 2) < 0)
		return -1;
	for (ssize_t length; (length = read(fd, buffer, sizeof buffer)) > 0;) {
		for (char *at = buffer; at < buffer + length;) {
			struct inotify_event *event = (struct inotify_event *)at;
			const char *name = event->len > 0 ? event->name : "";
			at += sizeof *event + event->len;
			if (event->mask & IN_IGNORED)
				return 0;
			if (put(event->mask & names ? "r" : "c", 1) < 0 || put(name, strlen(name) + 1) < 0)
				return -1;
		}
	}
	return -1;
}

static int fail_at(const char *path)
{
	int error = errno;
	if (write(2, path, strlen(path)) < 0)
		error = errno;
	errno = error;
	return -1;
}

static int put_record(char type, mode_t mode, const char *name, uint64_t size)
{
	struct record record = { (uint8_t)type, mode & 07777, (uint32_t)strlen(name), size };
	return put(&record, sizeof record) < 0 ? -1 : put(name, strlen(name));
}

static int pack_depth;

static int leave_to(int depth)
{
	for (; pack_depth > depth; pack_depth--)
		if (put_record('U', 0, "", 0) < 0)
			return -1;
	return 0;
}

static int pack_file(const char *path, const char *name)
{
	struct stat s;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &s) < 0)
		return -1;
	uint64_t size = (uint64_t)s.st_size;
	if (put_record('F', s.st_mode, name, size) < 0)
		return -1;
	int64_t copied = copy(fd, 1, size);
	close(fd);
	if (copied >= 0 && (uint64_t)copied < size)
		errno = EIO; /* it has been truncated meanwhile */
	return (uint64_t)copied == size ? 0 : -1;
}

static int pack_one(const char *path, const struct stat *s, int kind, struct FTW *at)
{
	const char *name = at->level > 0 ? path + at->base : "";
	char target[PATH_MAX];
	ssize_t length;
	if (leave_to(at->level) < 0)
		return -1;
	if (kind == FTW_D)
		return pack_depth++, put_record('D', s->st_mode, name, 0);
	if (kind == FTW_SL) {
		if ((length = readlink(path, target, sizeof target)) < 0)
			return fail_at(path);
		return put_record('L', 0777, name, (uint64_t)length) < 0 ? -1 : put(target, (size_t)length);
	}
	if (kind == FTW_F)
		return S_ISREG(s->st_mode) && pack_file(path, name) < 0 ? fail_at(path) : 0;
	errno = EACCES; /* FTW_DNR, FTW_NS */
	return fail_at(path);
}

static int op_pack(char **a)
{
	struct stat s;
	if (lstat(a[0], &s) < 0 || nftw(a[0], pack_one, 64, FTW_PHYS) != 0 || leave_to(0) < 0)
		return -1;
	return put_record('E', 0, "", 0);
}

/* One file, folder or link at a path. Returns 0, or -1. */
static int unpack_one(const struct record *record, const char *path)
{
	char target[PATH_MAX] = "";
	struct stat s;
	if (record->type == 'D')
		return mkdir(path, 0700) < 0 && (errno != EEXIST || stat(path, &s) < 0 || !S_ISDIR(s.st_mode)) ? -1 : 0;
	if (record->type == 'L' && record->size < sizeof target) {
		if (get(target, record->size) < 0)
			return -1;
		return symlink(target, path) == 0 || (errno == EEXIST && unlink(path) == 0 && symlink(target, path) == 0) ? 0 : -1;
	}
	errno = EPROTO;
	int fd = record->type == 'F' ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600) : -1;
	if (fd < 0)
		return -1;
	int64_t copied = copy(0, fd, record->size);
	if (copied >= 0 && (uint64_t)copied < record->size)
		errno = EPROTO;
	/* A device has no mode of the host's. */
	if ((uint64_t)copied != record->size || fstat(fd, &s) < 0 || (S_ISREG(s.st_mode) && fchmod(fd, record->mode) < 0))
		return -1;
	return close(fd);
}

static int op_unpack(char **a)
{
	char path[PATH_MAX];
	size_t ends[DEPTH_MAX + 1] = { strlen(a[0]) };
	uint32_t modes[DEPTH_MAX];
	int depth = 0;
	if (ends[0] >= sizeof path)
		return errno = ENAMETOOLONG, -1;
	strcpy(path, a[0]);
	for (struct record record; get(&record, sizeof record) == 0;) {
		if (record.type == 'E')
			return 0;
		if (record.type == 'U' && depth > 0) {
			if (chmod(path, modes[depth - 1]) < 0)
				return fail_at(path);
			path[ends[--depth]] = 0;
			continue;
		}
		size_t end = ends[depth], slash = depth > 0;
		if (depth == DEPTH_MAX || record.name_length + end + slash >= sizeof path)
			return errno = ENAMETOOLONG, -1;
		path[end] = '/';
		if (get(path + end + slash, record.name_length) < 0)
			return -1;
		end += record.name_length + slash;
		path[end] = 0;
		if (unpack_one(&record, path) < 0)
			return fail_at(path);
		if (record.type == 'D') {
			modes[depth] = record.mode;
			ends[++depth] = end;
		} else {
			path[ends[depth]] = 0;
		}
	}
	return -1;
}

static const struct {
	const char *name;
	int arguments;
	int (*run)(char **arguments);
} operations[] = {
	{ "stat", 1, op_stat },	      { "lstat", 1, op_lstat },	    { "read", 3, op_read },
	{ "write", 4, op_write },     { "readdir", 1, op_readdir }, { "readlink", 1, op_readlink },
	{ "mkdir", 2, op_mkdir },     { "chmod", 2, op_chmod },	    { "access", 2, op_access },
	{ "rename", 2, op_rename },   { "symlink", 2, op_symlink }, { "unlink", 1, op_unlink },
	{ "remove", 1, op_remove },   { "watch", 1, op_watch },	    { "pack", 1, op_pack },
	{ "unpack", 1, op_unpack },
};

int files_run(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
		if (argc == operations[i].arguments + 1 && strcmp(argv[0], operations[i].name) == 0)
			return operations[i].run(argv + 1) < 0 ? errno : 0;
	return EINVAL;
}
