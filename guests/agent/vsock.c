/*
 * Stream sockets over virtio-vsock for shells, which have none:
 *   nodevmm-agent vsock connect CID PORT            standard input and output are the connection
 *   nodevmm-agent vsock listen PORT PROGRAM [ARG...]  runs PROGRAM on each connection, for ever
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* sys/socket.h first: the kernel's header wants its sa_family_t. */
#include <linux/vm_sockets.h>

#define CHUNK 65536

static int open_socket(struct sockaddr_vm *address, unsigned cid, const char *port)
{
	memset(address, 0, sizeof *address);
	address->svm_family = AF_VSOCK;
	address->svm_cid = cid;
	address->svm_port = (unsigned)strtoul(port, NULL, 10);
	return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int failed(const char *what)
{
	fprintf(stderr, "nodevmm-agent: vsock %s: %s\n", what, strerror(errno));
	return 1;
}

/* Returns the bytes moved, 0 at the end, -1 after an error. */
static ssize_t move(int from, int to)
{
	static char chunk[CHUNK];
	ssize_t got = read(from, chunk, sizeof chunk);
	for (ssize_t done = 0; done < got;) {
		ssize_t put = write(to, chunk + done, (size_t)(got - done));
		if (put < 0)
			return -1;
		done += put;
	}
	return got;
}

/* Each direction has a process and ends by itself: the end of the input is a half-close. */
static int converse(int fd)
{
	pid_t child = fork();
	ssize_t moved;
	if (child < 0)
		return failed("fork");
	if (child == 0) {
		while ((moved = move(0, fd)) > 0)
			;
		shutdown(fd, SHUT_WR);
		_exit(moved < 0 ? failed("write") : 0);
	}
	while ((moved = move(fd, 1)) > 0)
		;
	if (moved < 0)
		failed("read");
	kill(child, SIGKILL); /* it may wait for input that will never come */
	return moved < 0;
}

static int dial(unsigned cid, const char *port)
{
	struct sockaddr_vm address;
	int fd = open_socket(&address, cid, port);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return failed("connect");
	return converse(fd);
}

/* Says "listening" on standard output when it does. */
static int answer(const char *port, char **argv)
{
	struct sockaddr_vm address;
	int listener = open_socket(&address, VMADDR_CID_ANY, port);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
	    listen(listener, 1024) < 0)
		return failed("listen");
	if (write(1, "listening\n", 10) < 0)
		return failed("write");
	signal(SIGCHLD, SIG_IGN); /* children leave no zombies */
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		if (fd < 0)
			return failed("accept");
		pid_t child = fork();
		if (child < 0)
			return failed("fork");
		if (child == 0) {
			signal(SIGCHLD, SIG_DFL);
			dup2(fd, 0);
			dup2(fd, 1);
			close(fd);
			execvp(argv[0], argv);
			_exit(failed(argv[0]));
		}
		close(fd);
	}
}

int vsock_run(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[0], "connect") == 0)
		return dial((unsigned)strtoul(argv[1], NULL, 10), argv[2]);
	if (argc >= 3 && strcmp(argv[0], "listen") == 0)
		return answer(argv[1], argv + 2);
	fprintf(stderr, "nodevmm-agent: vsock connect CID PORT, or vsock listen PORT PROGRAM [ARG...]\n");
	return 2;
}
