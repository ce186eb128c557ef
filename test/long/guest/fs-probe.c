/* System calls on files, in guests: one a run. Prints what came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static int said(const char *what) {
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

/* A file opened O_APPEND, truncated to 1024, mapped, stored to at 0. */
static int append_map(const char *path) {
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND, 0644);
	if (fd < 0 || ftruncate(fd, 1024) < 0) return said("open");
	char *map = mmap(NULL, 1024, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) return said("mmap");
	memcpy(map, "mapped", 6);
	if (msync(map, 1024, MS_SYNC) < 0) return said("msync");
	if (write(fd, "appended", 8) != 8) return said("write");
	memcpy(map + 512, "again", 5);
	if (msync(map, 1024, MS_SYNC) < 0) return said("msync");
	return close(fd) < 0 ? said("close") : 0;
}

/* O_APPEND taken back: offsets count. */
static int append_cleared(const char *path) {
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND, 0644);
	if (fd < 0 || write(fd, "0123456789", 10) != 10) return said("open");
	if (fcntl(fd, F_SETFL, 0) < 0) return said("fcntl");
	if (pwrite(fd, "ab", 2, 0) != 2) return said("pwrite");
	if (fcntl(fd, F_SETFL, O_APPEND) < 0) return said("fcntl");
	return write(fd, "end", 3) == 3 ? 0 : said("write");
}

/* setcap cap_net_raw+ep */
static int set_capability(const char *path) {
	struct vfs_cap_data data = {
		.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
		.data[0].permitted = 1 << CAP_NET_RAW,
	};
	return setxattr(path, "security.capability", &data, XATTR_CAPS_SZ_2, 0) < 0 ? said("setcap") : 0;
}

static int get(const char *path, const char *name) {
	char value[256];
	ssize_t got = getxattr(path, name, value, sizeof value);
	if (got < 0) return said("getxattr");
	printf("%zd bytes\n", got);
	return 0;
}

/* setfacl -m u:UID:r, with -d on a folder */
static int set_acl(const char *path, const char *name, uint32_t uid) {
	struct { uint16_t tag, perm; uint32_t id; } entry[] = {
		{ 1, 6, -1 }, { 2, 4, uid }, { 4, 0, -1 }, { 16, 4, -1 }, { 32, 0, -1 },
	};
	char value[4 + sizeof entry] = { 2 };
	memcpy(value + 4, entry, sizeof entry);
	return setxattr(path, name, value, sizeof value, 0) < 0 ? said("setfacl") : 0;
}

static int tmpfile_linked(const char *folder, const char *name) {
	char path[64];
	int fd = open(folder, O_RDWR | O_TMPFILE, 0640);
	if (fd < 0) return said("O_TMPFILE");
	if (write(fd, "text", 4) != 4) return said("write");
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0 ? said("linkat") : 0;
}

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "";
	const char *path = argc > 2 ? argv[2] : "";
	if (!strcmp(what, "append-map")) return append_map(path);
	if (!strcmp(what, "append-cleared")) return append_cleared(path);
	if (!strcmp(what, "setcap")) return set_capability(path);
	if (!strcmp(what, "getxattr") && argc > 3) return get(path, argv[3]);
	if (!strcmp(what, "setfacl") && argc > 4) return set_acl(path, argv[3], atoi(argv[4]));
	if (!strcmp(what, "tmpfile") && argc > 3) return tmpfile_linked(path, argv[3]);
	if (!strcmp(what, "raw")) {
		if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0) return said("socket");
		puts("a raw socket");
		return 0;
	}
	if (!strcmp(what, "as") && argc > 3) {
		int id = atoi(path);
		if (setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0) return said("setresuid");
		execv(argv[3], argv + 3);
		return said(argv[3]);
	}
	fprintf(stderr, "usage: fs-probe WHAT ...\n");
	return 2;
}
