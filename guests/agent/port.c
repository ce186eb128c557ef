/* The virtio-console port: found by its name, with buffers and framing. */
#define _GNU_SOURCE
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int port_fd = -1;
struct buffer port_out;
static struct buffer port_in;

uint32_t get_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

void put_u32(uint8_t *p, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(value >> (8 * i));
}

/* Room for length more bytes behind what waits; the caller adds to b->length. */
uint8_t *buffer_room(struct buffer *b, size_t length)
{
	if (b->start > 0 && b->start + b->length + length > b->capacity) {
		memmove(b->data, b->data + b->start, b->length);
		b->start = 0;
	}
	if (b->length + length > b->capacity) {
		size_t capacity = (b->length + length) * 2;
		uint8_t *data = realloc(b->data, capacity);
		if (!data) {
			perror("nodevmm-agent: realloc");
			exit(1);
		}
		b->data = data;
		b->capacity = capacity;
	}
	return b->data + b->start + b->length;
}

void buffer_take(struct buffer *b, size_t length)
{
	b->start += length;
	b->length -= length;
	if (b->length == 0)
		b->start = 0;
}

static int port_named(const char *port)
{
	char path[512], name[64] = "";
	snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);
	FILE *file = fopen(path, "r");
	if (!file)
		return 0;
	char *line = fgets(name, sizeof name, file);
	fclose(file);
	if (!line)
		return 0;
	name[strcspn(name, "\n")] = 0;
	return strcmp(name, PORT_NAME) == 0;
}

/* Opens the port into port_fd. Returns 0 when there is none (yet). */
int port_find(void)
{
	DIR *ports = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	if (!ports)
		return 0;
	while (port_fd < 0 && (entry = readdir(ports))) {
		if (entry->d_name[0] == '.' || !port_named(entry->d_name))
			continue;
		char path[512];
		snprintf(path, sizeof path, "/dev/%s", entry->d_name);
		port_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		/* The driver raises SIGIO when the host opens or closes its end. */
		if (port_fd >= 0 && fcntl(port_fd, F_SETOWN, getpid()) == 0)
			fcntl(port_fd, F_SETFL, fcntl(port_fd, F_GETFL) | O_ASYNC);
	}
	closedir(ports);
	return port_fd >= 0;
}

int port_connected(void)
{
	struct pollfd fd = { .fd = port_fd, .events = POLLIN | POLLOUT };
	return poll(&fd, 1, 0) >= 0 && !(fd.revents & (POLLHUP | POLLERR));
}

static int64_t milliseconds(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/*
 * After a sleep of the guest, the port looks as if the host had gone, until its driver has asked the host
 * again. Waits for that if the guest has slept since the last call, for ten seconds at most.
 */
int port_returned(void)
{
	static int64_t seen;
	/* Two clocks, read one after the other, may differ by a millisecond. */
	int64_t slept = milliseconds(CLOCK_BOOTTIME) - milliseconds(CLOCK_MONOTONIC);
	if (slept - seen < 2)
		return 0;
	seen = slept;
	for (int tries = 0; !port_connected() && tries < 1000; tries++)
		usleep(10000);
	return port_connected();
}

/* Returns 0 when the host has gone. */
int port_read(void)
{
	uint8_t *room = buffer_room(&port_in, 65536);
	ssize_t got = read(port_fd, room, 65536);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	port_in.length += (size_t)got;
	return got > 0;
}

/* Returns 0 when the host has gone. */
int port_write(void)
{
	while (port_out.length > 0) {
		ssize_t put = write(port_fd, buffer_head(&port_out), port_out.length);
		if (put < 0)
			return errno == EAGAIN || errno == EINTR;
		if (put == 0)
			return 1;
		buffer_take(&port_out, (size_t)put);
	}
	return 1;
}

void port_drop(void)
{
	port_in.start = port_in.length = 0;
	port_out.start = port_out.length = 0;
}

void port_send(uint8_t type, uint32_t channel, const void *payload, size_t length)
{
	uint8_t *frame = buffer_room(&port_out, FRAME_HEADER + length);
	frame[0] = type;
	put_u32(frame + 1, channel);
	put_u32(frame + 5, (uint32_t)length);
	if (length > 0)
		memcpy(frame + FRAME_HEADER, payload, length);
	port_out.length += FRAME_HEADER + length;
}

void port_hello(const uint8_t nonce[8])
{
	uint8_t payload[20];
	memcpy(payload, AGENT_MAGIC, 8);
	memcpy(payload + 8, nonce, 8);
	put_u32(payload + 16, AGENT_VERSION);
	port_send(FRAME_HELLO, 0, payload, sizeof payload);
}

void port_frames(void (*handle)(uint8_t, uint32_t, const uint8_t *, size_t))
{
	while (port_in.length > 0) {
		uint8_t *frame = buffer_head(&port_in);
		if (frame[0] == FRAME_PAD) {
			buffer_take(&port_in, 1);
			continue;
		}
		if (port_in.length < FRAME_HEADER)
			return;
		size_t length = get_u32(frame + 5);
		if (frame[0] > FRAME_CREDIT || length > FRAME_MAX) {
			/* Out of step after a host that left in mid-frame: the next HELLO is found byte by byte. */
			buffer_take(&port_in, 1);
			continue;
		}
		if (port_in.length < FRAME_HEADER + length)
			return;
		buffer_take(&port_in, FRAME_HEADER + length);
		handle(frame[0], get_u32(frame + 1), frame + FRAME_HEADER, length);
	}
}
