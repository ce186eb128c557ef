/*
 * The end of a terminal's input. A terminal has none: at the beginning of a line its driver takes
 * the EOF character for one, once; in mid-line the character only hands over what the line has, and
 * after the one that quotes (VLNEXT) it is data. So it is given again whenever everything before it has been
 * read, which makes the end last, as that of a pipe does.
 *
 * A program that reads its terminal raw, as a line editor does, gets the character itself. It comes
 * again at intervals that double: the program may have become another one in between.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SHORTEST_MS 10
#define LONGEST_MS 1000
#define CTRL_D 4

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void terminal_end(struct terminal_end *end)
{
	*end = (struct terminal_end){ .wanted = 1, .wait = SHORTEST_MS, .raw_wait = SHORTEST_MS };
}

/* Whether the program has yet to read what it was given. */
static int unread(int master)
{
	int slave = ioctl(master, TIOCGPTPEER, O_RDONLY | O_NOCTTY | O_CLOEXEC);
	struct pollfd fd = { .fd = slave, .events = POLLIN };
	if (slave < 0)
		return 0;
	int ready = poll(&fd, 1, 0) > 0 && fd.revents & POLLIN;
	close(slave);
	return ready;
}

void terminal_end_serve(struct terminal_end *end, int master)
{
	int64_t now = now_ms();
	struct termios mode; /* of the program's side: both ends have the same */
	if (!end->wanted || now < end->due)
		return;
	int canonical = tcgetattr(master, &mode) < 0 || mode.c_lflag & ICANON;
	cc_t eof = mode.c_cc[VEOF] == _POSIX_VDISABLE ? CTRL_D : mode.c_cc[VEOF];
	int give = !end->given || (!unread(master) && (canonical || now >= end->raw_due));
	if (give && write(master, &eof, 1) == 1) {
		end->given = 1;
		end->wait = SHORTEST_MS;
		end->raw_wait = canonical ? SHORTEST_MS : end->raw_wait * 2;
		end->raw_due = now + end->raw_wait;
	} else if (end->wait < LONGEST_MS) {
		end->wait *= 2;
	}
	end->due = now + end->wait;
}

int terminal_end_timeout(const struct terminal_end *end)
{
	int64_t left = end->due - now_ms();
	return !end->wanted ? -1 : left > 0 ? (int)left : 0;
}
