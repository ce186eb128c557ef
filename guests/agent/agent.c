/*
 * nodevmm's guest agent: runs commands in the guest for the host, over the virtio-console port
 * `org.nodevmm.agent`. With a number, over that already open descriptor instead (for tests).
 * With a word it is one of the programs below: what the host runs in the guest beside the guest's own
 * is /proc/self/exe, the agent.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define POLL_CAPACITY (2 + 3 * 256)

static void handle(uint8_t type, uint32_t channel, const uint8_t *payload, size_t length)
{
	switch (type) {
	case FRAME_HELLO:
		if (length != 16 || memcmp(payload, AGENT_MAGIC, 8) != 0)
			return;
		command_kill_all();
		port_out.start = port_out.length = 0;
		port_hello(payload + 8);
		return;
	case FRAME_EXEC:
		command_exec(channel, payload, length);
		return;
	case FRAME_STDIN:
		command_stdin(channel, payload, length);
		return;
	case FRAME_SIGNAL:
		if (length == 4)
			command_signal(channel, (int)get_u32(payload));
		return;
	case FRAME_WINSIZE:
		if (length == 4)
			command_winsize(channel, get_u16(payload), get_u16(payload + 2));
		return;
	case FRAME_CREDIT:
		if (length == 5)
			command_credit(channel, payload[0], get_u32(payload + 1));
		return;
	}
}

/* The port's driver may still be probing: waits for it, for ten seconds at most. */
static void await_port(void)
{
	for (int tries = 0; !port_find(); tries++) {
		if (tries == 500)
			exit(3);
		usleep(20000);
	}
}

static void serve(int signals, int is_port)
{
	static struct pollfd fds[POLL_CAPACITY];
	static const uint8_t nobody[8];
	int connected = 0;
	for (;;) {
		if (!connected && (connected = port_connected())) {
			port_drop();
			port_hello(nobody);
		}
		int was_connected = connected;
		short events = (short)(POLLIN | (port_out.length > 0 ? POLLOUT : 0));
		fds[0] = (struct pollfd){ .fd = signals, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = connected ? port_fd : -1, .events = events };
		size_t count = 2 + command_poll(fds + 2, POLL_CAPACITY - 2);
		/* SIGIO tells of a host that comes back; the timeout is for drivers that raise none. */
		if (poll(fds, count, !connected ? 250 : command_timeout()) < 0)
			continue;
		if (fds[0].revents) {
			struct signalfd_siginfo info[8];
			if (read(signals, info, sizeof info) > 0)
				command_reap();
		}
		command_serve(fds + 2, count - 2);
		if (connected && fds[1].revents & (POLLIN | POLLHUP | POLLERR))
			connected = port_read();
		if (connected) {
			port_frames(handle);
			connected = port_write();
		}
		if (was_connected && !connected && is_port)
			connected = port_returned();
		if (!connected) {
			command_kill_all();
			port_drop();
			if (!is_port)
				exit(0);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc > 3 && strcmp(argv[1], "console") == 0)
		return console_run(argv[2], argv + 3);
	if (argc > 1 && strcmp(argv[1], "vsock") == 0)
		return vsock_run(argc - 2, argv + 2);
	if (argc > 1 && strcmp(argv[1], "connect") == 0)
		return connect_run(argc - 2, argv + 2);
	if (argc > 1 && strcmp(argv[1], "files") == 0)
		return files_run(argc - 2, argv + 2);
	if (argc == 2 && strcmp(argv[1], "hold-kvm") == 0)
		return hold_kvm();
	if (argc > 2 || (argc == 2 && (argv[1][0] < '0' || argv[1][0] > '9'))) {
		fprintf(stderr, "nodevmm-agent: console, vsock, connect, files, hold-kvm, a descriptor, or nothing\n");
		return 2;
	}
	oom_protect();
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0) {
		perror("nodevmm-agent: signalfd");
		return 1;
	}
	if (argc > 1) {
		port_fd = atoi(argv[1]);
		fcntl(port_fd, F_SETFL, fcntl(port_fd, F_GETFL) | O_NONBLOCK);
		fcntl(port_fd, F_SETFD, FD_CLOEXEC);
	} else {
		await_port();
	}
	serve(signals, argc < 2);
}
