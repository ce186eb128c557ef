{
  'targets': [
    {
      'target_name': 'nodevmm',
      'sources': ['native/addon.cc'],
      'defines': ['NAPI_VERSION=8'],
      # musl has no mmap64.
      'defines!': ['_FILE_OFFSET_BITS=64'],
      'cflags': ['-Wall', '-Wextra', '-Werror', '-O2', '-fvisibility=hidden'],
      'cflags_cc': ['-std=c++17', '-fno-exceptions', '-fno-rtti'],
      # Without a C library named, the addon gets its symbols from the one that Node.js runs on.
      'ldflags': ['-nostdlib', '-Wl,-z,now'],
    },
  ],
}
