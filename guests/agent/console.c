/*
 * Gives a terminal to a program: `nodevmm-agent console DEVICE PROGRAM [ARG...]`. A shell that
 * init starts in the background would have SIGINT ignored for good, and no controlling terminal.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

int console_run(const char *device, char **argv)
{
	int fd = open(device, O_RDWR | O_NOCTTY);
	if (fd < 0) {
		perror(device);
		return 1;
	}
	if (getpgrp() != getpid())
		setsid();
	ioctl(fd, TIOCSCTTY, 1);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	execvp(argv[0], argv);
	perror(argv[0]);
	return 1;
}
