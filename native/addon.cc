// What koffi cannot do: signal handlers, which must never enter JavaScript, many copies for one call,
// and unmapping when a thread ends. Numbers in, a number or a negative errno out; no policy, no
// callbacks, no state but the kick handler and the guard table.
//
// One binary serves every Node.js, glibc and musl: Node-API, no C++ library, no library linked in or
// named. What it calls has the same name and layout in both C libraries (test/project/addon.test.ts).
#include <node_api.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>

namespace {

// The first real-time signals belong to the C library.
const int kKickOffset = 4;

// A mapping of memory that somebody else may truncate. `size` 0: a free slot.
struct Guard {
  std::atomic<uintptr_t> address{0};
  std::atomic<size_t> size{0};
  std::atomic<size_t> page{0};
  std::atomic<uint32_t> faults{0};
};

const int kGuards = 64;
Guard guards[kGuards];
pthread_mutex_t guard_writers = PTHREAD_MUTEX_INITIALIZER;

struct WriterLock {
  WriterLock() { pthread_mutex_lock(&guard_writers); }
  ~WriterLock() { pthread_mutex_unlock(&guard_writers); }
};

struct sigaction previous_sigbus;
bool sigbus_installed = false;

void on_kick(int) {}

// A load from or store to a page beyond the end of its file: give the thread a page of zeroes in its
// place, once and for all, and count it. Everything here is async-signal-safe. A fault elsewhere
// meets the previous disposition when the instruction is tried again.
void on_sigbus(int, siginfo_t *info, void *) {
  const int saved_errno = errno;
  const uintptr_t fault = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Guard &guard : guards) {
    const size_t size = guard.size.load(std::memory_order_acquire);
    const uintptr_t address = guard.address.load(std::memory_order_relaxed);
    if (size == 0 || fault < address || fault - address >= size) continue;
    const size_t page = guard.page.load(std::memory_order_relaxed);
    void *at = reinterpret_cast<void *>(fault / page * page);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (mmap(at, page, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) break;
    guard.faults.fetch_add(1, std::memory_order_relaxed);
    errno = saved_errno;
    return;
  }
  sigaction(SIGBUS, &previous_sigbus, nullptr);
  errno = saved_errno;
}

bool argument(napi_env env, napi_callback_info info, size_t wanted, int64_t *values) {
  napi_value arguments[3];
  size_t count = 3;
  if (napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr) != napi_ok) return false;
  if (count < wanted) return false;
  for (size_t i = 0; i < wanted; i++) {
    if (napi_get_value_int64(env, arguments[i], &values[i]) != napi_ok) return false;
  }
  return true;
}

napi_value number(napi_env env, int64_t value) {
  napi_value result;
  return napi_create_int64(env, value, &result) == napi_ok ? result : nullptr;
}

// installKick() -> signal number. Without SA_RESTART, so that the signal ends any system call.
napi_value install_kick(napi_env env, napi_callback_info) {
  const int signal = SIGRTMIN + kKickOffset;
  struct sigaction action = {};
  action.sa_handler = on_kick;
  if (sigaction(signal, &action, nullptr) != 0) return number(env, -errno);
  return number(env, signal);
}

// guard(address, size, page) -> slot. All three in bytes; `page` is the mapping's page size.
napi_value guard_range(napi_env env, napi_callback_info info) {
  int64_t values[3];
  if (!argument(env, info, 3, values)) return number(env, -EINVAL);
  const int64_t address = values[0], size = values[1], page = values[2];
  if (address <= 0 || size <= 0 || page < 4096 || (page & (page - 1)) != 0 || address % page != 0) {
    return number(env, -EINVAL);
  }
  WriterLock lock;
  if (!sigbus_installed) {
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    if (sigaction(SIGBUS, &action, &previous_sigbus) != 0) return number(env, -errno);
    sigbus_installed = true;
  }
  for (int slot = 0; slot < kGuards; slot++) {
    Guard &guard = guards[slot];
    if (guard.size.load(std::memory_order_relaxed) != 0) continue;
    guard.address.store(static_cast<uintptr_t>(address), std::memory_order_relaxed);
    guard.page.store(static_cast<size_t>(page), std::memory_order_relaxed);
    guard.faults.store(0, std::memory_order_relaxed);
    // Pairs with the acquire in on_sigbus: a size is seen only with its address and page.
    guard.size.store(static_cast<size_t>(size), std::memory_order_release);
    return number(env, slot);
  }
  return number(env, -ENOSPC);
}

Guard *slot_argument(napi_env env, napi_callback_info info) {
  int64_t slot;
  if (!argument(env, info, 1, &slot) || slot < 0 || slot >= kGuards) return nullptr;
  return &guards[slot];
}

// unguard(slot) -> 0
napi_value unguard_range(napi_env env, napi_callback_info info) {
  Guard *guard = slot_argument(env, info);
  if (guard == nullptr) return number(env, -EINVAL);
  WriterLock lock;
  guard->size.store(0, std::memory_order_release);
  return number(env, 0);
}

// guardFaults(slot) -> pages replaced so far
napi_value guard_faults(napi_env env, napi_callback_info info) {
  Guard *guard = slot_argument(env, info);
  if (guard == nullptr) return number(env, -EINVAL);
  return number(env, guard->faults.load(std::memory_order_relaxed));
}

struct Copy {
  double target, source, bytes;
};

template <typename T> T *pointer(double address) {
  return reinterpret_cast<T *>(static_cast<uintptr_t>(address));
}

// copy(list, count) -> 0. `list` is the address of `count` copies. It fetches no lines ahead: that took a
// fifth off the rate of full frames (docs/vhost-user.md).
napi_value copy(napi_env env, napi_callback_info info) {
  int64_t values[2];
  if (!argument(env, info, 2, values)) return number(env, -EINVAL);
  const Copy *list = reinterpret_cast<const Copy *>(values[0]);
  const int64_t count = values[1];
  for (int64_t i = 0; i < count; i++) {
    // Not memcpy: where the ranges lie is the guest's choice.
    memmove(pointer<void>(list[i].target), pointer<const void>(list[i].source),
            static_cast<size_t>(list[i].bytes));
  }
  return number(env, 0);
}

struct Mapping {
  void *address;
  size_t size;
};

void unmap(void *data) {
  Mapping *mapping = static_cast<Mapping *>(data);
  munmap(mapping->address, mapping->size);
  free(mapping);
}

// unmapAtExit(address, size) -> 0. The range goes away with the calling thread's environment.
napi_value unmap_at_exit(napi_env env, napi_callback_info info) {
  int64_t values[2];
  if (!argument(env, info, 2, values)) return number(env, -EINVAL);
  Mapping *mapping = static_cast<Mapping *>(malloc(sizeof(Mapping)));
  if (mapping == nullptr) return number(env, -ENOMEM);
  *mapping = {reinterpret_cast<void *>(values[0]), static_cast<size_t>(values[1])};
  if (napi_add_env_cleanup_hook(env, unmap, mapping) == napi_ok) return number(env, 0);
  free(mapping);
  return number(env, -ENOMEM);
}

napi_value initialize(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"installKick", nullptr, install_kick, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"guard", nullptr, guard_range, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"unguard", nullptr, unguard_range, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"guardFaults", nullptr, guard_faults, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"copy", nullptr, copy, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"unmapAtExit", nullptr, unmap_at_exit, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  const size_t count = sizeof(functions) / sizeof(functions[0]);
  if (napi_define_properties(env, exports, count, functions) != napi_ok) return nullptr;
  return exports;
}

}  // namespace

NAPI_MODULE(NODE_GYP_MODULE_NAME, initialize)
