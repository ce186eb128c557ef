/*
 * The loop of bench/groups/exits.ts in C: a guest that reads a port COUNT times and then writes one.
 * Usage: exit-cost COUNT < CODE
 * Prints nanoseconds an exit.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { CODE = 0x1000, STACK_TOP = 0x8000, RAM_SIZE = 0x10000 };

static int need(int result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
  return result;
}

static void *map(size_t size, int fd) {
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
  if (at == MAP_FAILED) need(-1, "mmap");
  return at;
}

static void enter_flat_mode(int vcpu, uint32_t count) {
  struct kvm_sregs sregs;
  need(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  struct kvm_segment data = {.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
  struct kvm_segment code = data;
  code.selector = 8;
  code.type = 11;
  sregs.cs = code;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.cr0 = 0x31;
  need(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = CODE, .rsp = STACK_TOP, .rflags = 2, .rcx = count};
  need(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(int argc, char **argv) {
  const uint32_t count = argc > 1 ? (uint32_t)atoi(argv[1]) : 10000;
  const int kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  const int vm = need(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  uint8_t *ram = map(RAM_SIZE, -1);
  if (fread(ram + CODE, 1, RAM_SIZE - CODE, stdin) == 0) return 1;
  struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)ram};
  need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  need(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
  const int vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  const int size = need(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  struct kvm_run *run = map(size, vcpu);
  enter_flat_mode(vcpu, count);

  struct timespec start, end;
  uint32_t exits = 0;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (;;) {
    need(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    exits++;
    if (run->exit_reason != KVM_EXIT_IO) return 1;
    if (run->io.direction == KVM_EXIT_IO_OUT) break;
    memset((uint8_t *)run + run->io.data_offset, 0x60, run->io.size);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  if (exits != count + 1) return 1;
  printf("%.1f\n", ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / exits);
  return 0;
}
