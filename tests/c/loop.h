/* What an event loop does with a queue, whatever kind of loop it is: so many calls, of which a number that is drawn
   anew each time is in flight, and each is completed once. */
#ifndef LOOP_H
#define LOOP_H

#include "check_async.h"

#include <fcntl.h>
#include <unistd.h>

enum { LOOP_CALLS = 6000, LOOP_KEYS = 40, LOOP_MOST_IN_FLIGHT = 200, LOOP_MOST_CAPACITY = 64, LOOP_LARGE = 400000 };

struct loop {
    cachetory_t cache;
    cachetory_queue_t queue;
    /* Of one queue_wait. */
    size_t capacity;
    /* Whether it calls until there is nothing, or once each time that the descriptor is readable. */
    int drains;
    unsigned next, outstanding, done;
    unsigned long long random;
    char is_done[LOOP_CALLS];
};

static inline unsigned loop_below(struct loop *loop, unsigned bound)
{
    loop->random = loop->random * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(loop->random >> 33) % bound;
}

static inline size_t loop_length(unsigned number)
{
    return number == 0 ? LOOP_LARGE : number * 13;
}

static inline void loop_submit(struct loop *loop)
{
    unsigned wanted = 1 + loop_below(loop, LOOP_MOST_IN_FLIGHT);
    while (loop->next < LOOP_CALLS && loop->outstanding < wanted) {
        char key[16];
        snprintf(key, sizeof key, "%u", loop->next % LOOP_KEYS);
        submit_get(loop->cache, loop->queue, loop->next++, key);
        loop->outstanding++;
    }
}

static inline void loop_take(struct loop *loop, cachetory_completion_t *completion)
{
    CHECK(completion->tag < loop->next && !loop->is_done[completion->tag]);
    CHECK(completion->status == CACHETORY_OK);
    size_t length = loop_length((unsigned)completion->tag % LOOP_KEYS);
    CHECK(completion->value.len == length);
    for (size_t i = 0; i < length; i += 1 + length / 10)
        CHECK(completion->value.data[i] == (char)('a' + completion->tag % LOOP_KEYS % 26));
    loop->is_done[completion->tag] = 1;
    loop->outstanding--;
    loop->done++;
}

/* To be called when the descriptor is readable, and once at first. Whether all calls are complete. */
static inline int loop_turn(struct loop *loop)
{
    cachetory_completion_t completions[LOOP_MOST_CAPACITY];
    cachetory_error_t error;
    size_t count;
    do {
        EXPECT(cachetory_queue_wait(loop->queue, completions, loop->capacity, 0, &count, &error), CACHETORY_OK, &error);
        for (size_t i = 0; i < count; i++) {
            loop_take(loop, &completions[i]);
            cachetory_completion_free(&completions[i]);
        }
    } while (count > 0 && loop->drains);
    loop_submit(loop);
    return loop->done == LOOP_CALLS;
}

/* Arguments: URL CAPACITY drains|once. */
static inline void loop_open(struct loop *loop, char **arguments)
{
    cachetory_error_t error;
    char *value = malloc(LOOP_LARGE);
    CHECK(value != NULL);
    memset(loop, 0, sizeof *loop);
    loop->cache = open_cache(arguments[0]);
    loop->queue = open_queue();
    loop->capacity = (size_t)atoi(arguments[1]);
    loop->drains = strcmp(arguments[2], "drains") == 0;
    CHECK(loop->capacity >= 1 && loop->capacity <= LOOP_MOST_CAPACITY);
    for (unsigned number = 0; number < LOOP_KEYS; number++) {
        char key[16];
        snprintf(key, sizeof key, "%u", number);
        memset(value, 'a' + (int)number % 26, LOOP_LARGE);
        EXPECT(cachetory_set(loop->cache, key, CACHETORY_STRLEN, value, loop_length(number), CACHETORY_NO_EXPIRY, 0,
                             &error),
               CACHETORY_OK, &error);
    }
    free(value);
}

static inline int loop_fd(struct loop *loop)
{
    int fd = cachetory_queue_fd(loop->queue);
    CHECK(fd >= 0);
    return fd;
}

static inline int loop_duplicate(struct loop *loop)
{
    int fd = fcntl(loop_fd(loop), F_DUPFD_CLOEXEC, 3);
    CHECK(fd >= 0);
    return fd;
}

static inline void loop_close(struct loop *loop)
{
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    CHECK(loop->done == LOOP_CALLS && loop->outstanding == 0);
    EXPECT(cachetory_queue_wait(loop->queue, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 0);
    CHECK(cachetory_queue_close(loop->queue) == CACHETORY_OK && cachetory_close(loop->cache) == CACHETORY_OK);
}

#endif
