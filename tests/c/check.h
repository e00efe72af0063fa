/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <cachetory.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long a test waits before it takes what it waits for for something that never comes. */
enum { WAIT_MS = 120 * 1000 };

/* A macro, because it names the place that calls it. */
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

static inline void check(int condition, const char *text, const char *file, int line)
{
    if (!condition) {
        fprintf(stderr, "%s:%d: not true: %s\n", file, line, text);
        abort();
    }
}

#define EXPECT(status, wanted, error) expect((status), (wanted), (error), __FILE__, __LINE__)

static inline void expect(cachetory_status_t status, cachetory_status_t wanted,
                          const cachetory_error_t *error, const char *file, int line)
{
    if (status != wanted || (error && error->status != status)) {
        fprintf(stderr, "%s:%d: %s (%s), not %s\n", file, line, cachetory_status_name(status),
                error ? error->message : "", cachetory_status_name(wanted));
        abort();
    }
}

static inline cachetory_t open_cache(const char *url)
{
    cachetory_t cache;
    cachetory_error_t error;
    EXPECT(cachetory_open_url(url, &cache, &error), CACHETORY_OK, &error);
    return cache;
}

/* Sets a key to its own name and gets it back. */
static inline void round_trip(cachetory_t cache, const char *key)
{
    cachetory_error_t error;
    cachetory_value_t value;
    EXPECT(cachetory_set(cache, key, CACHETORY_STRLEN, key, strlen(key), CACHETORY_NO_EXPIRY, 0, &error),
           CACHETORY_OK, &error);
    EXPECT(cachetory_get(cache, key, CACHETORY_STRLEN, &value, &error), CACHETORY_OK, &error);
    CHECK(value.len == strlen(key) && memcmp(value.data, key, value.len + 1) == 0);
    cachetory_value_free(&value);
}

/* The next completion of a queue, which must come. */
static inline cachetory_completion_t next_completion(cachetory_queue_t queue)
{
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    EXPECT(cachetory_queue_wait(queue, &completion, 1, WAIT_MS, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 1);
    return completion;
}

/* The same as round_trip, submitted and reaped. */
static inline void async_round_trip(cachetory_t cache, cachetory_queue_t queue, const char *key)
{
    cachetory_error_t error;
    cachetory_completion_t completion;
    uint64_t tag = (uintptr_t)key;
    EXPECT(cachetory_set_async(cache, queue, tag, key, CACHETORY_STRLEN, key, strlen(key),
                               CACHETORY_NO_EXPIRY, 0, &error),
           CACHETORY_OK, &error);
    completion = next_completion(queue);
    CHECK(completion.tag == tag && completion.status == CACHETORY_OK && completion.message == NULL);
    cachetory_completion_free(&completion);
    EXPECT(cachetory_get_async(cache, queue, tag + 1, key, CACHETORY_STRLEN, &error), CACHETORY_OK, &error);
    completion = next_completion(queue);
    CHECK(completion.tag == tag + 1 && completion.status == CACHETORY_OK);
    CHECK(completion.value.len == strlen(key));
    CHECK(memcmp(completion.value.data, key, completion.value.len + 1) == 0);
    cachetory_completion_free(&completion);
    cachetory_completion_free(&completion);
}

#endif
