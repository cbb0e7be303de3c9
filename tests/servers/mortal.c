/* A library to be preloaded: it counts what a process does to the world outside, and kills it before the Nth time.
 *
 * The file named by MORTAL_CONTROL is shared with the test (see mortal.py): whether to count, at which effect to die,
 * how many there were, and what each of them was. An effect is a change of a folder, a barrier of the disk, or bytes on
 * their way to somebody else; where it is asked for, also every write into a file. On their way to a database (the port
 * named in the control) those bytes count that commit, or that change something outside a transaction: what happens
 * within one is nothing until it ends. Of a large body the first piece counts, those that follow it do not. All threads
 * count together. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define ENTRIES_MAX 8192
#define ENTRY_BYTES 120

struct control {
  _Atomic int32_t armed;  /* count at all */
  _Atomic int32_t at;     /* die before this one; 0 is never */
  _Atomic int32_t writes; /* writes into files are effects, too */
  _Atomic int32_t database; /* the port of PostgreSQL, or 0: then all bytes to it count */
  _Atomic int32_t died;
  _Atomic int32_t count;
  char entries[ENTRIES_MAX][ENTRY_BYTES];
};

static struct control *control;

__attribute__((constructor)) static void open_control(void) {
  const char *path = getenv("MORTAL_CONTROL");
  if (!path) return;
  int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void *shared = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (shared != MAP_FAILED) control = shared;
}

static int counting(void) { return control && atomic_load(&control->armed); }

static void effect(const char *what, const char *on) {
  int saved = errno;
  int32_t at = atomic_load(&control->at);
  int32_t number = atomic_fetch_add(&control->count, 1) + 1;
  if (number <= ENTRIES_MAX) snprintf(control->entries[number - 1], ENTRY_BYTES, "%s %s", what, on);
  if (at && number == at) {
    atomic_store(&control->died, 1);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = saved;
}

static void file_effect(const char *what, int file) {
  if (!counting()) return;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length < 0 ? 0 : length] = 0;
  effect(what, path);
}

static void named_effect(const char *what, const char *path) {
  if (counting()) effect(what, path);
}

#define FILES_MAX 4096
static _Atomic char inside[FILES_MAX]; /* whether the connection is within a transaction */

static int says(const void *bytes, size_t size, const char *word) {
  return bytes && memmem(bytes, size, word, strlen(word)) != NULL;
}

/* Whether these bytes can change anything for others. */
static int decides(int file, const void *bytes, size_t size) {
  static const char *const changes[] = {"INSERT", "UPDATE", "DELETE", "NOTIFY", "CREATE", "pg_notify"};
  int was = inside[file % FILES_MAX];
  if (says(bytes, size, "BEGIN")) inside[file % FILES_MAX] = 1;
  if (says(bytes, size, "ROLLBACK")) inside[file % FILES_MAX] = 0;
  if (says(bytes, size, "COMMIT") && !says(bytes, size, "BEGIN")) { /* which says READ COMMITTED */
    inside[file % FILES_MAX] = 0;
    return 1;
  }
  for (size_t at = 0; !was && at < sizeof changes / sizeof *changes; at++)
    if (says(bytes, size, changes[at])) return 1;
  return 0;
}

#define BULK_BYTES 65536
static _Atomic char bulk[FILES_MAX]; /* whether the last thing sent was a piece of a large body */

/* Whether these bytes go on with a body that had begun: to its receiver the request is as incomplete as before. */
static int goes_on(int file, size_t size) {
  int large = size >= BULK_BYTES, was = atomic_exchange(&bulk[file % FILES_MAX], large);
  return large && was;
}

static void sent(int file, const void *bytes, size_t size) {
  struct sockaddr_in ours = {0}, theirs = {0};
  socklen_t ours_size = sizeof ours, theirs_size = sizeof theirs;
  getsockname(file, (struct sockaddr *)&ours, &ours_size);
  if (ours.sin_family != AF_INET || getpeername(file, (struct sockaddr *)&theirs, &theirs_size) != 0) return;
  int32_t database = atomic_load(&control->database), port = ntohs(theirs.sin_port);
  if (database && port == database && !decides(file, bytes, size)) return;
  if (goes_on(file, size)) return;
  char ports[64];
  snprintf(ports, sizeof ports, "%d:%d", ntohs(ours.sin_port), port);
  if (counting()) effect("send", ports);
}

static void written(const char *what, int file, const void *bytes, size_t size) {
  if (!control) return;
  int saved = errno;
  struct stat about;
  if (fstat(file, &about) == 0) {
    if (S_ISREG(about.st_mode) && atomic_load(&control->writes)) file_effect(what, file);
    if (S_ISSOCK(about.st_mode)) sent(file, bytes, size);
  }
  errno = saved;
}

#define REAL(type, name, ...)                                   \
  static type (*real)(__VA_ARGS__);                             \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define ON_FILE(name)                    \
  int name(int file) {                   \
    REAL(int, #name, int);               \
    file_effect(#name, file);            \
    return real(file);                   \
  }
ON_FILE(fsync)
ON_FILE(fdatasync)

#define ON_LENGTH(name, offset)                 \
  int name(int file, offset length) {           \
    REAL(int, #name, int, offset);              \
    file_effect("ftruncate", file);             \
    return real(file, length);                  \
  }
ON_LENGTH(ftruncate, off_t)
ON_LENGTH(ftruncate64, off64_t)

#define ON_PATH(name)                    \
  int name(const char *path) {           \
    REAL(int, #name, const char *);      \
    named_effect(#name, path);           \
    return real(path);                   \
  }
ON_PATH(unlink)
ON_PATH(rmdir)

int unlinkat(int folder, const char *path, int flags) {
  REAL(int, "unlinkat", int, const char *, int);
  named_effect("unlink", path);
  return real(folder, path, flags);
}

int mkdir(const char *path, mode_t mode) {
  REAL(int, "mkdir", const char *, mode_t);
  named_effect("mkdir", path);
  return real(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  REAL(int, "mkdirat", int, const char *, mode_t);
  named_effect("mkdir", path);
  return real(folder, path, mode);
}

#define ON_TWO(name)                                      \
  int name(const char *from, const char *to) {            \
    REAL(int, #name, const char *, const char *);         \
    named_effect(#name, to);                              \
    return real(from, to);                                \
  }
ON_TWO(link)
ON_TWO(rename)

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  REAL(int, "linkat", int, const char *, int, const char *, int);
  named_effect("link", to);
  return real(from_folder, from, to_folder, to, flags);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  REAL(int, "renameat", int, const char *, int, const char *);
  named_effect("rename", to);
  return real(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
  named_effect("rename", to);
  return real(from_folder, from, to_folder, to, flags);
}

/* A file that is not there yet and is to be made. */
static void made(int folder, const char *path, int flags) {
  int saved = errno;
  if (counting() && (flags & O_CREAT) && syscall(SYS_faccessat, folder, path, F_OK) != 0) effect("make", path);
  errno = saved;
}

#define MODE                              \
  mode_t mode = 0;                        \
  if (flags & (O_CREAT | O_TMPFILE)) {    \
    va_list more;                         \
    va_start(more, flags);                \
    mode = va_arg(more, mode_t);          \
    va_end(more);                         \
  }

#define ON_OPEN(name)                                   \
  int name(const char *path, int flags, ...) {          \
    REAL(int, #name, const char *, int, ...);           \
    MODE made(AT_FDCWD, path, flags);                   \
    return real(path, flags, mode);                     \
  }
ON_OPEN(open)
ON_OPEN(open64)

#define ON_OPENAT(name)                                     \
  int name(int folder, const char *path, int flags, ...) {  \
    REAL(int, #name, int, const char *, int, ...);          \
    MODE made(folder, path, flags);                         \
    return real(folder, path, flags, mode);                 \
  }
ON_OPENAT(openat)
ON_OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
  REAL(ssize_t, "write", int, const void *, size_t);
  written("write", file, bytes, size);
  return real(file, bytes, size);
}

ssize_t writev(int file, const struct iovec *pieces, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  written("write", file, count ? pieces->iov_base : NULL, count ? pieces->iov_len : 0);
  return real(file, pieces, count);
}

#define ON_PLACE(name, offset)                                            \
  ssize_t name(int file, const void *bytes, size_t size, offset place) {  \
    REAL(ssize_t, #name, int, const void *, size_t, offset);              \
    written("write", file, bytes, size);                                  \
    return real(file, bytes, size, place);                                \
  }
ON_PLACE(pwrite, off_t)
ON_PLACE(pwrite64, off64_t)

ssize_t copy_file_range(int from, off64_t *from_place, int to, off64_t *to_place, size_t size, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  written("copy", to, NULL, 0);
  return real(from, from_place, to, to_place, size, flags);
}

ssize_t send(int file, const void *bytes, size_t size, int flags) {
  REAL(ssize_t, "send", int, const void *, size_t, int);
  written("send", file, bytes, size);
  return real(file, bytes, size, flags);
}

ssize_t sendto(int file, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
  REAL(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);
  written("send", file, bytes, size);
  return real(file, bytes, size, flags, to, length);
}

ssize_t sendmsg(int file, const struct msghdr *message, int flags) {
  REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
  struct iovec *first = message->msg_iovlen ? message->msg_iov : NULL;
  written("send", file, first ? first->iov_base : NULL, first ? first->iov_len : 0);
  return real(file, message, flags);
}

ssize_t sendfile(int to, int from, off_t *place, size_t size) {
  REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
  written("send", to, NULL, size);
  return real(to, from, place, size);
}

ssize_t sendfile64(int to, int from, off64_t *place, size_t size) {
  REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
  written("send", to, NULL, size);
  return real(to, from, place, size);
}
