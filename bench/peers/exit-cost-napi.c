/* ioctl as a Node-API function, for bench/exit-cost.ts: what an addon would cost instead of koffi. */
#include <errno.h>
#include <node_api.h>
#include <sys/ioctl.h>

static napi_value call(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  size_t count = 2;
  int32_t fd;
  uint32_t request;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_int32(env, arguments[0], &fd);
  napi_get_value_uint32(env, arguments[1], &request);
  int value = ioctl(fd, request, 0);
  napi_create_int32(env, value < 0 ? -errno : value, &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "ioctl", NAPI_AUTO_LENGTH, call, NULL, &function);
  napi_set_named_property(env, exports, "ioctl", function);
  return exports;
}
