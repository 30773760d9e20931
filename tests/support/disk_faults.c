/* A disk that fails when a test says so: preloaded, it stands before the C library's calls that
   change files below one watched folder. It counts them, lets chosen ones fail, tears or shortens
   writes, and can keep a log from which `disk_faults.py` rebuilds what a power cut would leave.

   A call belongs to the watched folder if its path or the name behind its descriptor does
   (/proc/self/fd), so that nothing has to be remembered about open files. Everything else passes
   through untouched. The calls are made one at a time, so that the log has the order of the disk.
   tests/support/disk_faults.py names the actions and reads the log; both must agree. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { ONCE = 1, GONE, FULL, TORN, SHORT, KILL };
enum kind { CREATE = 'C', WRITE = 'W', TRUNCATE = 'T', SYNC = 'S', SYNC_FOLDER = 'F',
            RENAME = 'R', UNLINK = 'U', LINK = 'L', MKDIR = 'M', RMDIR = 'D' };

#define MOST_ARMED 64

struct fault { uint64_t at; int action, error; };

/* What the log keeps of a call; the two paths and the bytes written follow it. */
struct entry {
    uint8_t kind, failed;
    uint16_t path_bytes, other_bytes, unused;
    uint64_t inode;
    int64_t offset;
    uint64_t data_bytes;
};

struct place { char path[PATH_MAX]; char other[PATH_MAX]; uint64_t inode; int64_t offset; };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char watched[PATH_MAX];
static size_t watched_bytes;
static struct fault armed[MOST_ARMED];
static int armed_count, lasting, lasting_error;
static uint64_t counted, injected;
static int is_recording;
static char *log_bytes;
static size_t log_size, log_room;
static char kinds[1 << 20];

#define REAL(name, result, ...)                                        \
    static result (*real)(__VA_ARGS__);                                \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* --- which calls are meant ------------------------------------------------------------------- */

static int is_below(const char *path)
{
    return watched_bytes && strncmp(path, watched, watched_bytes) == 0 &&
           (path[watched_bytes] == '/' || path[watched_bytes] == 0);
}

static int name_of_fd(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int path_of_fd(int fd, char *path) { return name_of_fd(fd, path) && is_below(path); }

static int path_at(int folder, const char *name, char *path)
{
    if (!watched_bytes) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return is_below(path);
    }
    char start[PATH_MAX];
    if (folder == AT_FDCWD ? !getcwd(start, sizeof start) : !name_of_fd(folder, start)) return 0;
    if (snprintf(path, PATH_MAX, "%s/%s", start, name) >= PATH_MAX) return 0;
    return is_below(path);
}

static uint64_t inode_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

static int place_of_fd(int fd, struct place *place)
{
    if (!watched_bytes) return 0;
    memset(place->other, 0, 1);
    place->offset = 0;
    if (!path_of_fd(fd, place->path)) return 0;
    place->inode = inode_of(fd);
    return 1;
}

/* --- what happens to a call ------------------------------------------------------------------ */

static int needs_room(enum kind kind)
{
    return kind == CREATE || kind == WRITE || kind == MKDIR || kind == LINK;
}

/* The action that meets the next call, or 0; called under the lock. */
static int next_action(enum kind kind, int *error)
{
    if (counted < sizeof kinds) kinds[counted] = (char)kind;
    counted++;
    if (lasting && (lasting != FULL || needs_room(kind))) {
        *error = lasting_error;
        return lasting;
    }
    for (int at = 0; at < armed_count; at++) {
        if (armed[at].at != counted) continue;
        *error = armed[at].error;
        int action = armed[at].action;
        if (action == GONE || action == FULL || action == TORN) {
            lasting = action == FULL ? FULL : GONE;
            lasting_error = *error;
        }
        if (action == FULL && !needs_room(kind)) return 0;
        if (action == SHORT && kind != WRITE) return 0;
        if (action == KILL) kill(getpid(), SIGKILL);
        return action;
    }
    return 0;
}

static void keep(const void *bytes, size_t size)
{
    if (log_size + size > log_room) {
        log_room = 2 * (log_size + size) + 65536;
        log_bytes = realloc(log_bytes, log_room);
        if (!log_bytes) abort();
    }
    memcpy(log_bytes + log_size, bytes, size);
    log_size += size;
}

static void note(enum kind kind, const struct place *place, int failed, const void *data, size_t size)
{
    if (!is_recording) return;
    struct entry entry = { (uint8_t)kind, (uint8_t)failed, (uint16_t)strlen(place->path),
                           (uint16_t)strlen(place->other), 0, place->inode, place->offset, size };
    keep(&entry, sizeof entry);
    keep(place->path, entry.path_bytes);
    keep(place->other, entry.other_bytes);
    if (size) keep(data, size);
}

static int fail_with(int error)
{
    injected++;
    errno = error;
    return -1;
}

static void begin(void) { pthread_mutex_lock(&turn); }

static void end(void)
{
    int kept = errno;
    pthread_mutex_unlock(&turn);
    errno = kept;
}

/* A call without bytes: it fails, or is made and noted. */
#define CHANGE(kind, place, made)                                      \
    ({                                                                 \
        int error_, answer_;                                           \
        begin();                                                       \
        if (next_action(kind, &error_)) {                              \
            note(kind, place, 1, NULL, 0);                             \
            answer_ = fail_with(error_);                               \
        } else {                                                       \
            answer_ = (made);                                          \
            if (answer_ >= 0) note(kind, place, 0, NULL, 0);           \
        }                                                              \
        end();                                                         \
        answer_;                                                       \
    })

/* --- writing --------------------------------------------------------------------------------- */

/* A write at a known offset: whole, half of it and an error, half of it, or an error. */
static ssize_t write_below(int fd, const void *data, size_t size, off_t offset, int moves)
{
    REAL(pwrite64, ssize_t, int, const void *, size_t, off64_t);
    struct place place;
    if (!place_of_fd(fd, &place)) return -2;
    int error;
    begin();
    place.offset = offset;
    if (moves) place.offset = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    int action = next_action(WRITE, &error);
    size_t whole = action == TORN || action == SHORT ? (size > 1 ? size / 2 : size) : size;
    ssize_t done;
    if (action && action != TORN && action != SHORT) {
        note(WRITE, &place, 1, NULL, 0);
        done = fail_with(error);
    } else {
        done = real(fd, data, whole, place.offset);
        if (done > 0) note(WRITE, &place, 0, data, (size_t)done);
        if (done > 0 && moves) lseek(fd, place.offset + done, SEEK_SET);
        if (action == SHORT) injected++;
        if (action == TORN) done = fail_with(error);
    }
    end();
    return done;
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write, ssize_t, int, const void *, size_t);
    ssize_t done = watched_bytes ? write_below(fd, data, size, 0, 1) : -2;
    return done == -2 ? real(fd, data, size) : done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    REAL(pwrite64, ssize_t, int, const void *, size_t, off64_t);
    ssize_t done = watched_bytes ? write_below(fd, data, size, offset, 0) : -2;
    return done == -2 ? real(fd, data, size, offset) : done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return pwrite64(fd, data, size, offset);
}

/* Gathered writes become one, so that a tear falls anywhere in it. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev, ssize_t, int, const struct iovec *, int);
    char path[PATH_MAX];
    if (!watched_bytes || !path_of_fd(fd, path)) return real(fd, parts, count);
    size_t size = 0;
    for (int at = 0; at < count; at++) size += parts[at].iov_len;
    char *joined = malloc(size + 1);
    if (!joined) abort();
    for (int at = 0, used = 0; at < count; used += (int)parts[at].iov_len, at++)
        memcpy(joined + used, parts[at].iov_base, parts[at].iov_len);
    ssize_t done = write(fd, joined, size);
    free(joined);
    return done;
}

/* Copying inside the kernel is not offered here: callers fall back to writing. */
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
{
    REAL(sendfile64, ssize_t, int, int, off64_t *, size_t);
    char path[PATH_MAX];
    if (watched_bytes && path_of_fd(to, path)) { errno = EINVAL; return -1; }
    return real(to, from, offset, size);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *offset, size_t size, unsigned flags)
{
    REAL(copy_file_range, ssize_t, int, off64_t *, int, off64_t *, size_t, unsigned);
    char path[PATH_MAX];
    if (watched_bytes && path_of_fd(to, path)) { errno = EXDEV; return -1; }
    return real(from, at, to, offset, size, flags);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64, int, int, off64_t);
    struct place place;
    if (!place_of_fd(fd, &place)) return real(fd, size);
    place.offset = size;
    return CHANGE(TRUNCATE, &place, real(fd, size));
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* --- making durable -------------------------------------------------------------------------- */

static enum kind kind_of_sync(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) ? SYNC_FOLDER : SYNC;
}

/* The real flush would cost time and show nothing: what is durable is decided by the log. */
static int sync_below(int fd, int (*real)(int))
{
    struct place place;
    if (!place_of_fd(fd, &place)) return real(fd);
    return CHANGE(kind_of_sync(fd), &place, 0);
}

int fsync(int fd)
{
    REAL(fsync, int, int);
    return sync_below(fd, real);
}

int fdatasync(int fd)
{
    REAL(fdatasync, int, int);
    return sync_below(fd, real);
}

/* --- names ----------------------------------------------------------------------------------- */

/* Opening counts when it makes a file or empties one. */
static int open_below(int folder, const char *name, int flags, mode_t mode)
{
    REAL(openat64, int, int, const char *, int, ...);
    struct place place = { .inode = 0, .offset = 0 };
    struct stat found;
    if (!(flags & (O_CREAT | O_TRUNC)) || !path_at(folder, name, place.path))
        return real(folder, name, flags, mode);
    int is_there = fstatat(folder, name, &found, 0) == 0;
    if (is_there && ((flags & O_EXCL) || !(flags & O_TRUNC) || found.st_size == 0))
        return real(folder, name, flags, mode);
    enum kind kind = is_there ? TRUNCATE : CREATE;
    int error, fd = -1;
    begin();
    if (next_action(kind, &error)) {
        note(kind, &place, 1, NULL, 0);
        fail_with(error);
    } else if ((fd = real(folder, name, flags, mode)) >= 0) {
        place.inode = inode_of(fd);
        note(kind, &place, 0, NULL, 0);
    }
    end();
    return fd;
}

static mode_t mode_of(int flags, va_list more)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPENS(name_)                                                   \
    int name_(const char *name, int flags, ...)                        \
    {                                                                  \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = mode_of(flags, more);                            \
        va_end(more);                                                  \
        return open_below(AT_FDCWD, name, flags, mode);                \
    }
#define OPENS_AT(name_)                                                \
    int name_(int folder, const char *name, int flags, ...)            \
    {                                                                  \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        mode_t mode = mode_of(flags, more);                            \
        va_end(more);                                                  \
        return open_below(folder, name, flags, mode);                  \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(renameat, int, int, const char *, int, const char *);
    struct place place = { .inode = 0, .offset = 0 };
    int is_from = path_at(from_folder, from, place.path);
    int is_to = path_at(to_folder, to, place.other);
    if (!is_from && !is_to) return real(from_folder, from, to_folder, to);
    return CHANGE(RENAME, &place, real(from_folder, from, to_folder, to));
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    REAL(linkat, int, int, const char *, int, const char *, int);
    struct place place = { .inode = 0, .offset = 0 };
    int is_from = path_at(from_folder, from, place.path);
    if (!path_at(to_folder, to, place.other) || !is_from)
        return real(from_folder, from, to_folder, to, flags);
    return CHANGE(LINK, &place, real(from_folder, from, to_folder, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat, int, int, const char *, int);
    struct place place = { .inode = 0, .offset = 0 };
    struct stat found;
    if (!path_at(folder, name, place.path) ||
        fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return real(folder, name, flags);
    return CHANGE(flags & AT_REMOVEDIR ? RMDIR : UNLINK, &place, real(folder, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode)
{
    REAL(mkdirat, int, int, const char *, mode_t);
    struct place place = { .inode = 0, .offset = 0 };
    struct stat found;
    if (!path_at(folder, name, place.path) || fstatat(folder, name, &found, 0) == 0)
        return real(folder, name, mode);
    return CHANGE(MKDIR, &place, real(folder, name, mode));
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* --- what the test says ---------------------------------------------------------------------- */

void disk_watch(const char *folder, int records)
{
    begin();
    snprintf(watched, sizeof watched, "%s", folder);
    watched_bytes = strlen(watched);
    is_recording = records;
    counted = injected = log_size = 0;
    armed_count = lasting = 0;
    end();
}

/* The `at`-th call from now on, 1 being the next. */
int disk_arm(uint64_t at, int action, int error)
{
    begin();
    int is_taken = armed_count < MOST_ARMED;
    if (is_taken) armed[armed_count++] = (struct fault){ counted + at, action, error };
    end();
    return is_taken;
}

/* Nothing fails any more; counting and the log go on. */
void disk_mend(void)
{
    begin();
    armed_count = lasting = 0;
    end();
}

uint64_t disk_counted(void) { return counted; }
uint64_t disk_injected(void) { return injected; }
const char *disk_kinds(void) { return kinds; }
const char *disk_log(uint64_t *size) { *size = log_size; return log_bytes; }
