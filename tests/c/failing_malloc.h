/* Allocations that fail on demand. What is defined here stands before the C library's own, for the library under test
   and its threads too. One translation unit of a program includes it. */
#ifndef FAILING_MALLOC_H
#define FAILING_MALLOC_H

#include <errno.h>
#include <limits.h>
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

/* Counts allocations of `smallest` bytes and more from now on. Of these the one with number `first`, and those after it,
   `row` in all or ENDLESS, fail. */
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

static int fails(size_t size)
{
    counted_here++;
    if (size < smallest_counted)
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

#endif
