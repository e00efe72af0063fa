/* Allocations that fail on demand. What is defined here stands before the C library's own, for the library under test
   and its threads too. One translation unit of a program includes it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

enum { ENDLESS = 0 };

/* Which allocations count, how many of them there were, and from which to which they fail. */
static atomic_size_t smallest_counted;
static atomic_long counted, first_failing = LONG_MAX, end_of_failing = LONG_MAX;

/* Counts allocations of `smallest` bytes and more from now on. Of these the one with number `first`, and those after
   it, `row` in all or ENDLESS, fail. */
static inline void fail_allocations(size_t smallest, long first, long row)
{
    first_failing = LONG_MAX;
    smallest_counted = smallest;
    counted = 0;
    end_of_failing = row == ENDLESS ? LONG_MAX : first + row;
    first_failing = first;
}

static inline void fail_no_more(void)
{
    first_failing = LONG_MAX;
}

static inline long allocations(void)
{
    return counted;
}

/* How many there were in this thread. */
static _Thread_local long counted_here;
/* This thread is where the C library itself dies without memory, so that none of its allocations fails. */
static _Thread_local int dies_without;

static int fails(size_t size)
{
    counted_here++;
    if (size < smallest_counted || dies_without)
        return 0;
    long number = counted++;
    if (number < first_failing || number >= end_of_failing)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(count * size) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return fails(size) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails(size) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = aligned_alloc(alignment, size);
    if (memory == NULL)
        return ENOMEM;
    *out = memory;
    return 0;
}

/* glibc (2.36) dies within getaddrinfo(3) where it cannot allocate what it first needs: with SIGSEGV in
   nss_database_check_reload_and_get (nss/nss_database.c:402, which uses the NULL of __libc_allocate_once), and with
   SIGABRT in nss_database_reload_1 (nss/nss_database.c:291, an assertion that getline succeeds). glibc_dies.c shows
   both, without the library. */
typedef int getaddrinfo_t(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static getaddrinfo_t *real_getaddrinfo(void)
{
    getaddrinfo_t *real;
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    dies_without++;
    int result = real_getaddrinfo()(name, service, hints, found);
    dies_without--;
    return result;
}

#endif
