/*
 * Standard input and output are a connection, for the host (src/agent/guest-connection.ts):
 *   nodevmm-agent connect tcp ADDRESS PORT | unix PATH | vsock CID PORT
 *
 * One byte on standard output announces the connection, one on standard error that the peer has ended
 * its direction: the end of the output alone may also be that of this process. Exits with 0 or an errno.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* sys/socket.h first: the kernel's header wants its sa_family_t. */
#include <linux/vm_sockets.h>

#define CHUNK 65536

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

struct way {
	int from, to;
	/* Bytes [start, end) wait; from < 0: no more come; to < 0: nobody takes them. */
	size_t start, end;
	uint8_t data[CHUNK];
};

static struct way up = { .from = 0 }, down = { .to = 1 };

/* Returns a connected socket, or a negative errno. */
static int dial(const union address *address, socklen_t length)
{
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	if (fd < 0 || connect(fd, &address->any, length) < 0) {
		/* What vsock calls a reset is a refusal elsewhere. */
		int error = errno == ECONNRESET ? ECONNREFUSED : errno;
		if (fd >= 0)
			close(fd);
		return -error;
	}
	if (address->any.sa_family == AF_INET || address->any.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int dial_tcp(const char *host, unsigned port)
{
	union address in = { .in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) } };
	union address in6 = { .in6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) } };
	if (strcmp(host, "localhost") == 0) {
		int fd = dial_tcp("127.0.0.1", port);
		if (fd == -ECONNREFUSED)
			fd = dial_tcp("::1", port);
		return fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT ? -ECONNREFUSED : fd; /* no IPv6 */
	}
	if (inet_pton(AF_INET, host, &in.in.sin_addr) == 1)
		return dial(&in, sizeof in.in);
	return inet_pton(AF_INET6, host, &in6.in6.sin6_addr) == 1 ? dial(&in6, sizeof in6.in6) : -EINVAL;
}

static int open_connection(int argc, char **argv)
{
	union address to;
	memset(&to, 0, sizeof to);
	if (argc == 3 && strcmp(argv[0], "tcp") == 0)
		return dial_tcp(argv[1], (unsigned)strtoul(argv[2], NULL, 10));
	if (argc == 3 && strcmp(argv[0], "vsock") == 0) {
		to.vm.svm_family = AF_VSOCK;
		to.vm.svm_cid = (unsigned)strtoul(argv[1], NULL, 10);
		to.vm.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
		return dial(&to, sizeof to.vm);
	}
	if (argc != 2 || strcmp(argv[0], "unix") != 0)
		return -EINVAL;
	if (strlen(argv[1]) >= sizeof to.un.sun_path)
		return -ENAMETOOLONG;
	to.un.sun_family = AF_UNIX;
	strcpy(to.un.sun_path, argv[1]);
	return dial(&to, sizeof to.un);
}

static void not_blocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* Reads what there is when nothing waits, and writes. Returns an errno, 0, or -1 at the input's end. */
static int move(struct way *way)
{
	ssize_t count;
	if (way->start == way->end) {
		count = read(way->from, way->data, CHUNK);
		if (count <= 0)
			return count == 0 ? -1 : errno == EAGAIN || errno == EINTR ? 0 : errno;
		way->start = 0;
		way->end = (size_t)count;
	}
	count = write(way->to, way->data + way->start, way->end - way->start);
	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : errno;
	way->start += (size_t)count;
	return 0;
}

/* Each direction ends by itself. Returns an errno: the first that the socket had. */
static int converse(int fd)
{
	int error = 0;
	while (up.from >= 0 || down.from >= 0) {
		int up_waits = up.start < up.end, down_waits = down.start < down.end;
		short events = (short)((up.from >= 0 && up_waits ? POLLOUT : 0) |
				       (down.from >= 0 && !down_waits ? POLLIN : 0));
		struct pollfd fds[3] = {
			{ .fd = up_waits ? -1 : up.from, .events = POLLIN },
			{ .fd = down.from >= 0 ? 1 : -1, .events = down_waits ? POLLOUT : 0 },
			/* Not while it could only repeat that it hung up. */
			{ .fd = events || (up.from >= 0 && down.from < 0) ? fd : -1, .events = events },
		};
		if (poll(fds, 3, -1) < 0)
			continue;
		int lost = fds[2].revents & (POLLERR | POLLHUP);
		if (fds[1].revents & POLLERR)
			return error; /* the host has gone */
		if (up.from >= 0 && (fds[0].revents || fds[2].revents & (POLLOUT | POLLERR | POLLHUP))) {
			int result = move(&up);
			if (result < 0)
				shutdown(fd, SHUT_WR);
			else if (result > 0)
				error = error ? error : result;
			/* The peer may be gone for good while the host has nothing to say. */
			if (result || (lost && down.from < 0)) {
				close(0);
				up.from = -1;
			}
		}
		if (down.from >= 0 && (fds[1].revents || fds[2].revents & (POLLIN | POLLERR | POLLHUP))) {
			int result = move(&down);
			if (result > 0)
				return error ? error : result;
			if (result == 0)
				continue;
			if (write(2, "", 1) < 0)
				return error;
			close(1);
			down.from = -1;
		}
	}
	return error;
}

int connect_run(int argc, char **argv)
{
	int fd = open_connection(argc, argv);
	if (fd < 0)
		return -fd;
	signal(SIGPIPE, SIG_IGN);
	if (write(1, "", 1) != 1)
		return errno;
	not_blocking(0);
	not_blocking(1);
	not_blocking(fd);
	up.to = down.from = fd;
	return converse(fd);
}
