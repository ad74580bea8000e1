// Makes one operation on files fail: a library for LD_PRELOAD. See failing_disk.py.
//
// It counts the calls that write to files or folders whose path contains a text. The call with a
// given number fails with a given error, and all others succeed.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX], failed[PATH_MAX];
static atomic_long calls, failing;
static int code;

// Let call number `number` fail; 0: none.
void fail(const char *text, long number, int error) {
  strncpy(folder, text, sizeof folder - 1);
  failed[0] = 0;
  calls = 0, code = error, failing = number;
}

long count(void) { return calls; }
const char *name(void) { return failed; }  // the operation that failed, and its path

static int fails(const char *operation, const char *path) {
  if (!folder[0] || !path || !strstr(path, folder) || ++calls != failing) return 0;
  snprintf(failed, sizeof failed, "%s %s", operation, path);
  errno = code;
  return 1;
}

// Return the path of a descriptor.
static const char *path_of(int descriptor, char *path) {
  char link[64];
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, PATH_MAX - 1);
  errno = before;
  path[size < 0 ? 0 : size] = 0;
  return path;
}

// Return an absolute path of a path that is relative to a folder.
static const char *path_in(int directory, const char *path, char *result) {
  char base[PATH_MAX];
  if (!path || path[0] == '/') return path;
  if (directory != AT_FDCWD) path_of(directory, base);
  else if (!getcwd(base, sizeof base)) return path;
  if (snprintf(result, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return path;
  return result;
}

#define NEXT(function) \
  static __typeof__(function) *next; \
  char buffer[PATH_MAX]; \
  if (!next) next = dlsym(RTLD_NEXT, #function)

#define OPEN(function, directory, parameters, ...) \
  int function parameters { \
    NEXT(function); \
    va_list rest; \
    va_start(rest, flags); \
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest); \
    if (flags & O_CREAT && fails("create", path_in(directory, path, buffer))) return -1; \
    return next(__VA_ARGS__, mode); \
  }
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPEN(openat, d, (int d, const char *path, int flags, ...), d, path, flags)
OPEN(openat64, d, (int d, const char *path, int flags, ...), d, path, flags)

#define WITH_DESCRIPTOR(type, function, operation, parameters, ...) \
  type function parameters { \
    NEXT(function); \
    if (fails(operation, path_of(f, buffer))) return -1; \
    return next(__VA_ARGS__); \
  }
WITH_DESCRIPTOR(ssize_t, write, "write", (int f, const void *p, size_t n), f, p, n)
WITH_DESCRIPTOR(ssize_t, pwrite, "write", (int f, const void *p, size_t n, off_t o), f, p, n, o)
WITH_DESCRIPTOR(ssize_t, pwrite64, "write", (int f, const void *p, size_t n, off64_t o), f, p, n, o)
WITH_DESCRIPTOR(ssize_t, writev, "write", (int f, const struct iovec *v, int n), f, v, n)
WITH_DESCRIPTOR(int, fsync, "fsync", (int f), f)
WITH_DESCRIPTOR(int, fdatasync, "fsync", (int f), f)
WITH_DESCRIPTOR(int, ftruncate, "truncate", (int f, off_t n), f, n)
WITH_DESCRIPTOR(int, ftruncate64, "truncate", (int f, off64_t n), f, n)

#define WITH_PATH(function, operation, directory, parameters, ...) \
  int function parameters { \
    NEXT(function); \
    if (fails(operation, path_in(directory, path, buffer))) return -1; \
    return next(__VA_ARGS__); \
  }
WITH_PATH(mkdir, "mkdir", AT_FDCWD, (const char *path, mode_t m), path, m)
WITH_PATH(mkdirat, "mkdir", d, (int d, const char *path, mode_t m), d, path, m)
WITH_PATH(unlink, "unlink", AT_FDCWD, (const char *path), path)
WITH_PATH(unlinkat, "unlink", d, (int d, const char *path, int f), d, path, f)
WITH_PATH(rmdir, "rmdir", AT_FDCWD, (const char *path), path)
WITH_PATH(rename, "rename", AT_FDCWD, (const char *path, const char *to), path, to)
WITH_PATH(renameat, "rename", d, (int d, const char *path, int e, const char *to), d, path, e, to)
