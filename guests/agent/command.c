/* Commands that the host runs in the guest: their processes, pipes and windows. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define COMMANDS 256
#define CHUNK 32768

struct command {
	struct process process; /* pid 0: free */
	uint32_t channel;
	uint32_t credit[3]; /* of OUT and ERR: bytes that the host still takes */
	struct buffer input;
	struct terminal_end terminal_end;
	int input_ended, exited, status;
};

static struct command commands[COMMANDS];

static struct command *command_of(uint32_t channel)
{
	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (c->process.pid && c->channel == channel)
			return c;
	return NULL;
}

static void send_error(uint32_t channel, int error)
{
	uint8_t payload[256];
	put_u32(payload, (uint32_t)error);
	int length = snprintf((char *)payload + 4, sizeof payload - 4, "%s", strerror(error));
	port_send(FRAME_ERROR, channel, payload, 4 + (size_t)length);
}

static void close_stream(struct command *c, int stream)
{
	if (c->process.fd[stream] < 0)
		return;
	/* A terminal is one descriptor: its output side owns it. */
	if (!(c->process.tty && stream == IN))
		close(c->process.fd[stream]);
	c->process.fd[stream] = -1;
	if (c->process.tty && stream == OUT)
		c->process.fd[IN] = -1;
	if (stream != IN)
		port_send(stream == OUT ? FRAME_STDOUT : FRAME_STDERR, c->channel, NULL, 0);
}

static void send_credit(struct command *c, uint32_t bytes)
{
	uint8_t payload[5] = { IN };
	put_u32(payload + 1, bytes);
	port_send(FRAME_CREDIT, c->channel, payload, sizeof payload);
}

/* All input has been handed over. */
static void end_input(struct command *c)
{
	if (c->process.tty)
		terminal_end(&c->terminal_end);
	else
		close_stream(c, IN);
}

/* Gives back the window of input that nobody will read any more. */
static void drop_input(struct command *c)
{
	if (c->input.length > 0)
		send_credit(c, (uint32_t)c->input.length);
	buffer_take(&c->input, c->input.length);
	close_stream(c, IN);
}

void command_exec(uint32_t channel, const uint8_t *payload, size_t length)
{
	struct command *c = commands;
	if (command_of(channel)) {
		send_error(channel, EPROTO);
		return;
	}
	while (c < commands + COMMANDS && c->process.pid)
		c++;
	if (c == commands + COMMANDS) {
		send_error(channel, EAGAIN);
		return;
	}
	memset(c, 0, sizeof *c);
	c->channel = channel;
	c->credit[OUT] = c->credit[ERR] = STREAM_WINDOW;
	int error = spawn(&c->process, payload, length);
	if (error) {
		send_error(channel, error);
		return;
	}
	uint8_t started[4];
	put_u32(started, (uint32_t)c->process.pid);
	port_send(FRAME_STARTED, channel, started, sizeof started);
}

void command_stdin(uint32_t channel, const uint8_t *payload, size_t length)
{
	struct command *c = command_of(channel);
	if (!c || c->input_ended)
		return;
	if (c->input.length + length > STREAM_WINDOW) {
		kill(-c->process.pid, SIGKILL);
		return;
	}
	if (length > 0)
		memcpy(buffer_room(&c->input, length), payload, length);
	c->input.length += length;
	c->input_ended = length == 0;
	if (c->process.fd[IN] < 0)
		drop_input(c);
	else if (c->input_ended && c->input.length == 0)
		end_input(c);
}

void command_signal(uint32_t channel, int signal)
{
	struct command *c = command_of(channel);
	if (c && !c->exited)
		kill(-c->process.pid, signal);
}

void command_winsize(uint32_t channel, unsigned columns, unsigned rows)
{
	struct command *c = command_of(channel);
	struct winsize size = { .ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows };
	if (c && c->process.tty && c->process.fd[OUT] >= 0)
		ioctl(c->process.fd[OUT], TIOCSWINSZ, &size);
}

void command_credit(uint32_t channel, unsigned stream, uint32_t bytes)
{
	struct command *c = command_of(channel);
	if (!c || (stream != OUT && stream != ERR))
		return;
	uint32_t room = STREAM_WINDOW - c->credit[stream];
	c->credit[stream] += bytes < room ? bytes : room;
}

void command_reap(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		for (struct command *c = commands; c < commands + COMMANDS; c++)
			if (c->process.pid == pid)
				c->exited = 1, c->status = status;
}

static void release(struct command *c)
{
	free(c->input.data);
	memset(c, 0, sizeof *c);
}

/* The host has gone or starts anew: nobody is left to hear of what ran. */
void command_kill_all(void)
{
	for (struct command *c = commands; c < commands + COMMANDS; c++) {
		if (!c->process.pid)
			continue;
		if (!c->exited) {
			kill(-c->process.pid, SIGKILL);
			waitpid(c->process.pid, NULL, 0);
		}
		for (int i = IN; i < 3; i++)
			close_stream(c, i);
		release(c);
	}
}

static void read_output(struct command *c, int stream)
{
	uint8_t chunk[CHUNK];
	size_t most = c->credit[stream] < CHUNK ? c->credit[stream] : CHUNK;
	if (c->process.fd[stream] < 0 || most == 0 || port_out.length >= OUT_HIGH)
		return;
	ssize_t got = read(c->process.fd[stream], chunk, most);
	if (got > 0) {
		c->credit[stream] -= (uint32_t)got;
		port_send(stream == OUT ? FRAME_STDOUT : FRAME_STDERR, c->channel, chunk, (size_t)got);
	} else if (got == 0 || errno != EAGAIN || c->exited) {
		/* After the exit, EAGAIN says that all it wrote is read; who still holds the pipe isn't waited for. */
		close_stream(c, stream);
	}
}

static void write_input(struct command *c)
{
	ssize_t put = write(c->process.fd[IN], buffer_head(&c->input), c->input.length);
	if (put > 0) {
		buffer_take(&c->input, (size_t)put);
		send_credit(c, (uint32_t)put);
	} else if (errno != EAGAIN) {
		drop_input(c);
	}
	if (c->process.fd[IN] >= 0 && c->input.length == 0 && c->input_ended)
		end_input(c);
}

/* Whether a command that has ended still has output that the port takes: serving it must not wait. */
static int draining(const struct command *c)
{
	for (int i = OUT; c->exited && i <= ERR; i++)
		if (c->process.fd[i] >= 0 && c->credit[i] > 0 && port_out.length < OUT_HIGH)
			return 1;
	return 0;
}

int command_timeout(void)
{
	int shortest = -1;
	for (struct command *c = commands; c < commands + COMMANDS; c++) {
		if (!c->process.pid)
			continue;
		if (draining(c))
			return 0;
		int timeout = c->exited || c->process.fd[IN] < 0 ? -1 : terminal_end_timeout(&c->terminal_end);
		if (timeout >= 0 && (shortest < 0 || timeout < shortest))
			shortest = timeout;
	}
	return shortest;
}

size_t command_poll(struct pollfd *fds, size_t capacity)
{
	size_t count = 0;
	for (struct command *c = commands; c < commands + COMMANDS && count + 3 <= capacity; c++) {
		if (!c->process.pid)
			continue;
		if (c->process.fd[IN] >= 0 && c->input.length > 0)
			fds[count++] = (struct pollfd){ .fd = c->process.fd[IN], .events = POLLOUT };
		for (int i = OUT; i <= ERR; i++)
			if (c->process.fd[i] >= 0 && c->credit[i] > 0 && port_out.length < OUT_HIGH)
				fds[count++] = (struct pollfd){ .fd = c->process.fd[i], .events = POLLIN };
	}
	return count;
}

static short revents_of(const struct pollfd *fds, size_t count, int fd, short events)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i].fd == fd && fds[i].events == events)
			return fds[i].revents;
	return 0;
}

void command_serve(const struct pollfd *fds, size_t count)
{
	for (struct command *c = commands; c < commands + COMMANDS; c++) {
		if (!c->process.pid)
			continue;
		if (c->process.fd[IN] >= 0 && c->input.length > 0 && revents_of(fds, count, c->process.fd[IN], POLLOUT))
			write_input(c);
		if (c->process.fd[IN] >= 0 && !c->exited)
			terminal_end_serve(&c->terminal_end, c->process.fd[IN]);
		for (int i = OUT; i <= ERR; i++)
			if (c->process.fd[i] >= 0 && (c->exited || revents_of(fds, count, c->process.fd[i], POLLIN)))
				read_output(c, i);
		if (!c->exited || c->process.fd[OUT] >= 0 || c->process.fd[ERR] >= 0)
			continue;
		if (c->process.fd[IN] >= 0)
			drop_input(c);
		uint8_t payload[8];
		put_u32(payload, WIFEXITED(c->status) ? (uint32_t)WEXITSTATUS(c->status) : 0);
		put_u32(payload + 4, WIFSIGNALED(c->status) ? (uint32_t)WTERMSIG(c->status) : 0);
		port_send(FRAME_EXIT, c->channel, payload, sizeof payload);
		release(c);
	}
}
