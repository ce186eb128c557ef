{
  'targets': [
    {
      'target_name': 'nodevmm',
      'sources': ['native/addon.cc'],
      'defines': ['NAPI_VERSION=8'],
      'cflags': ['-Wall', '-Wextra', '-Werror', '-O2', '-fvisibility=hidden'],
      'cflags_cc': ['-std=c++17', '-fno-exceptions', '-fno-rtti'],
    },
  ],
}
