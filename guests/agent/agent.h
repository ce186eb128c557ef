/* Shared by the guest agent's parts. The protocol is described in src/agent/protocol.ts. */
#ifndef NODEVMM_AGENT_H
#define NODEVMM_AGENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_VERSION 2
#define AGENT_MAGIC "nvmmagnt"
/* What the agent is to its children before their exec. */
#define AGENT_PROGRAM "/proc/self/exe"
#define PORT_NAME "org.nodevmm.agent"

enum frame_type {
	FRAME_PAD = 0,
	FRAME_HELLO = 1,
	FRAME_EXEC = 2,
	FRAME_STDIN = 3,
	FRAME_SIGNAL = 4,
	FRAME_WINSIZE = 5,
	FRAME_CREDIT = 6,
	FRAME_STARTED = 17,
	FRAME_STDOUT = 18,
	FRAME_STDERR = 19,
	FRAME_EXIT = 20,
	FRAME_ERROR = 21,
};

#define FRAME_HEADER 9
#define FRAME_MAX (128 * 1024)
#define STREAM_WINDOW (256 * 1024)
/* Command output is read only while less than this waits for the port. */
#define OUT_HIGH (256 * 1024)

/* Bytes [start, start + length) of data wait to be taken. */
struct buffer {
	uint8_t *data;
	size_t start, length, capacity;
};

uint8_t *buffer_room(struct buffer *b, size_t length);
void buffer_take(struct buffer *b, size_t length);
static inline uint8_t *buffer_head(struct buffer *b) { return b->data + b->start; }

uint32_t get_u32(const uint8_t *p);
uint16_t get_u16(const uint8_t *p);
void put_u32(uint8_t *p, uint32_t value);

/* port.c: the way to the host */
extern int port_fd;
extern struct buffer port_out;
int port_find(void);
int port_connected(void);
int port_returned(void);
int port_read(void);
int port_write(void);
void port_drop(void);
void port_send(uint8_t type, uint32_t channel, const void *payload, size_t length);
void port_hello(const uint8_t nonce[8]);
/* Hands every complete frame to handle. */
void port_frames(void (*handle)(uint8_t type, uint32_t channel, const uint8_t *payload, size_t length));

/* spawn.c: one process */
enum { IN, OUT, ERR };
struct process {
	pid_t pid;
	int tty;
	/* Our ends of its streams, not blocking; a terminal's IN and OUT are one, and it has no ERR. */
	int fd[3];
};
int spawn(struct process *c, const uint8_t *payload, size_t length);

/* user.c: who it runs as */
int become(const char *user);

/* terminal.c: the end of a terminal's input */
struct terminal_end {
	int wanted, given;
	int wait; /* ms between two looks */
	int64_t due, raw_wait, raw_due;
};
void terminal_end(struct terminal_end *end);
/* Gives the end to the program behind a terminal's master side when it is time. */
void terminal_end_serve(struct terminal_end *end, int master);
/* Milliseconds until then, or -1. */
int terminal_end_timeout(const struct terminal_end *end);

/* oom.c: out of memory */
void oom_protect(void);
void oom_unprotect(void);

/* command.c: what runs in the guest */
struct pollfd;
void command_exec(uint32_t channel, const uint8_t *payload, size_t length);
void command_stdin(uint32_t channel, const uint8_t *payload, size_t length);
void command_signal(uint32_t channel, int signal);
void command_winsize(uint32_t channel, unsigned columns, unsigned rows);
void command_credit(uint32_t channel, unsigned stream, uint32_t bytes);
void command_reap(void);
void command_kill_all(void);
/* How long poll may wait, in its terms. */
int command_timeout(void);
/* Fills at most capacity entries; command_serve takes the same array after poll. */
size_t command_poll(struct pollfd *fds, size_t capacity);
void command_serve(const struct pollfd *fds, size_t count);

/* console.c: returns only when it fails */
int console_run(const char *device, char **argv);

/* vsock.c: what a shell does with sockets of the host */
int vsock_run(int argc, char **argv);

/* connect.c: a connection for the host */
int connect_run(int argc, char **argv);

/* files.c: the guest's files for the host */
int files_run(int argc, char **argv);

/* hold-kvm.c: returns only when it fails */
int hold_kvm(void);

#endif
