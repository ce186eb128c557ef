/* Starts a command's process with its pipes or its terminal. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

/* The host asks for another user in front of the command: /proc/self/exe as USER. */
static int names_user(char **argv)
{
	return strcmp(argv[0], AGENT_PROGRAM) == 0 && argv[1] && strcmp(argv[1], "as") == 0 && argv[2] && argv[3];
}

static void child_run(char **argv, char **env, const char *cwd, int fds[3], int tty, int report)
{
	int error = 0;
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	oom_unprotect();
	setsid();
	if (tty)
		ioctl(fds[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		dup2(fds[i], i);
	if (names_user(argv)) {
		error = become(argv[2]);
		argv += 3;
	}
	for (; *env; env++)
		putenv(*env);
	/* Nobody would hear of it any more. A change of the user takes this back. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!error && (*cwd == 0 || chdir(cwd) == 0))
		execvp(argv[0], argv);
	error = error ? error : errno;
	if (write(report, &error, sizeof error) != sizeof error)
		_exit(126);
	_exit(127);
}

/* The ends of the command's streams: mine[] stays here, theirs[] goes to the child. */
static int open_streams(int tty, int mine[3], int theirs[3])
{
	int pipes[3][2];
	if (tty) {
		int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
			return -1;
		int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (slave < 0)
			return -1;
		mine[IN] = mine[OUT] = master;
		mine[ERR] = -1;
		theirs[0] = theirs[1] = theirs[2] = slave;
		fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
		return 0;
	}
	for (int i = 0; i < 3; i++) {
		if (pipe2(pipes[i], O_CLOEXEC) < 0)
			return -1;
		theirs[i] = pipes[i][i == IN ? 0 : 1];
		mine[i] = pipes[i][i == IN ? 1 : 0];
		fcntl(mine[i], F_SETFL, O_NONBLOCK);
	}
	return 0;
}

/* Splits count NUL-terminated strings off a payload. Returns what follows, or NULL. */
static const uint8_t *split(const uint8_t *p, const uint8_t *end, char **strings, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *nul = p < end ? memchr(p, 0, (size_t)(end - p)) : NULL;
		if (!nul)
			return NULL;
		strings[i] = (char *)p;
		p = nul + 1;
	}
	strings[count] = NULL;
	return p;
}

/*
 * Starts what an EXEC payload asks for: flags, columns, rows, counts, then argv, environment and
 * working directory as NUL-terminated strings. Returns 0 or an errno.
 */
int spawn(struct process *c, const uint8_t *p, size_t length)
{
	if (length < 9 || p[length - 1] != 0)
		return EPROTO;
	unsigned argc = get_u16(p + 5), envc = get_u16(p + 7);
	struct winsize size = { .ws_col = get_u16(p + 1), .ws_row = get_u16(p + 3) };
	const uint8_t *end = p + length;
	char **argv = calloc(argc + envc + 4U, sizeof *argv), **env = argv + argc + 1, *cwd[2];
	int theirs[3], report[2], error = 0;
	c->tty = p[0] & 1;
	if (!argv)
		return ENOMEM;
	const uint8_t *rest = split(p + 9, end, argv, argc);
	if (rest)
		rest = split(rest, end, env, envc);
	if (!rest || argc == 0 || !split(rest, end, cwd, 1)) {
		free(argv);
		return EPROTO;
	}
	/* Limit: descriptors of a half-made command leak when the guest is out of them. */
	if (open_streams(c->tty, c->fd, theirs) < 0 || pipe2(report, O_CLOEXEC) < 0) {
		free(argv);
		return errno;
	}
	if (c->tty && size.ws_col)
		ioctl(theirs[0], TIOCSWINSZ, &size);
	pid_t pid = fork();
	if (pid == 0)
		child_run(argv, env, cwd[0], theirs, c->tty, report[1]);
	if (pid < 0)
		error = errno;
	close(report[1]);
	for (int i = 0; i < (c->tty ? 1 : 3); i++)
		close(theirs[i]);
	if (pid > 0 && read(report[0], &error, sizeof error) != sizeof error)
		error = 0;
	close(report[0]);
	free(argv);
	if (error) {
		for (int i = c->tty ? OUT : IN; i < 3; i++)
			if (c->fd[i] >= 0)
				close(c->fd[i]);
		return error;
	}
	c->pid = pid;
	return 0;
}
