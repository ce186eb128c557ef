/*
 * Keeps virtual machines that never run: `nodevmm-agent hold-kvm`, in the lab. It returns when they
 * are there; a child holds them from then on.
 *
 * With the first VM and the last, vCPUs without and with an APIC, KVM switches static keys, and the
 * kernel rewrites the branches that depend on them, one of them in __schedule. QEMU's TCG with
 * several threads (seen in 7.2) may go on executing what another thread rewrites meanwhile: the
 * lab's kernel then dies of a stray int3. While a VM of each kind is held nothing is switched, and
 * they are made before the second CPU goes online.
 */
#include "agent.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int hold(int kvm, int irqchip)
{
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0 || (irqchip && ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0))
		return -1;
	return ioctl(vm, KVM_CREATE_VCPU, 0);
}

int hold_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0 || hold(kvm, 1) < 0 || hold(kvm, 0) < 0) {
		perror("nodevmm-agent: /dev/kvm");
		return 1;
	}
	pid_t child = fork();
	if (child < 0)
		perror("nodevmm-agent: fork");
	while (child == 0)
		pause();
	return child < 0;
}
