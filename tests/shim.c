/* Preloaded into a process: lets the system fail on demand.
 * While the file named by SHIM_FAIL exists, every write and sync of a database file fails with the errno written in it
 * (5 EIO, 28 ENOSPC). With SHIM_NO_THREADS, no thread can be started, as under a limit on processes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int failing(int fd)
{
    char link[64], path[512], number[16] = "";
    const char *flag = getenv("SHIM_FAIL");
    if (!flag || access(flag, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    if (!strstr(path, "broker.db"))
        return 0;
    int file = open(flag, O_RDONLY);
    if (file >= 0) {
        n = read(file, number, sizeof number - 1);
        close(file);
    }
    errno = atoi(number);
    return errno != 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at)
{
    return failing(fd) ? -1 : REAL(pwrite64)(fd, from, n, at);
}
ssize_t pwrite(int fd, const void *from, size_t n, off_t at)
{
    return failing(fd) ? -1 : REAL(pwrite)(fd, from, n, at);
}
ssize_t write(int fd, const void *from, size_t n)
{
    return failing(fd) ? -1 : REAL(write)(fd, from, n);
}
int fsync(int fd)
{
    return failing(fd) ? -1 : REAL(fsync)(fd);
}
int fdatasync(int fd)
{
    return failing(fd) ? -1 : REAL(fdatasync)(fd);
}
int ftruncate64(int fd, off64_t n)
{
    return failing(fd) ? -1 : REAL(ftruncate64)(fd, n);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    return getenv("SHIM_NO_THREADS") ? EAGAIN : REAL(pthread_create)(thread, attributes, run, argument);
}
