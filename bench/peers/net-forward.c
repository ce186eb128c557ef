/* Forwards packets between two taps with virtio-net headers, one read and one write each:
 * what bench/net-forward.ts is measured against. Usage: net-forward TAP TAP */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static char packet[1 << 17];

static int open_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK), size = 12, one = 1;

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) || ioctl(fd, TUNSETVNETHDRSZ, &size) ||
	    ioctl(fd, TUNSETVNETLE, &one) ||
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)) {
		perror(name);
		exit(1);
	}
	return fd;
}

static void forward(int from, int to)
{
	for (int budget = 64; budget > 0; budget--) {
		ssize_t length = read(from, packet, sizeof(packet));

		if (length < 0)
			return;
		if (write(to, packet, length) < 0 && errno != EINVAL && errno != EIO)
			perror("write");
	}
}

int main(int argc, char **argv)
{
	struct pollfd taps[2];

	if (argc != 3)
		return 2;
	for (int i = 0; i < 2; i++)
		taps[i] = (struct pollfd){ .fd = open_tap(argv[i + 1]), .events = POLLIN };
	puts("ready");
	fflush(stdout);
	for (;;) {
		poll(taps, 2, -1);
		if (taps[0].revents & POLLIN)
			forward(taps[0].fd, taps[1].fd);
		if (taps[1].revents & POLLIN)
			forward(taps[1].fd, taps[0].fd);
	}
}
