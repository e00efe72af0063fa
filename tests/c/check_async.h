/* What the test programs of the asynchronous calls share. */
#ifndef CHECK_ASYNC_H
#define CHECK_ASYNC_H

#include "check.h"

static inline cachetory_queue_t open_queue(void)
{
    cachetory_queue_t queue;
    cachetory_error_t error;
    EXPECT(cachetory_queue_open(&queue, &error), CACHETORY_OK, &error);
    return queue;
}

static inline void submit_get(cachetory_t cache, cachetory_queue_t queue, uint64_t tag, const char *key)
{
    cachetory_error_t error;
    EXPECT(cachetory_get_async(cache, queue, tag, key, CACHETORY_STRLEN, &error), CACHETORY_OK, &error);
}

static inline void submit_set(cachetory_t cache, cachetory_queue_t queue, uint64_t tag, const char *key)
{
    cachetory_error_t error;
    EXPECT(cachetory_set_async(cache, queue, tag, key, CACHETORY_STRLEN, key, strlen(key), CACHETORY_NO_EXPIRY, 0,
                               &error),
           CACHETORY_OK, &error);
}

/* The next completion, however long it takes. */
static inline cachetory_completion_t next(cachetory_queue_t queue)
{
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    EXPECT(cachetory_queue_wait(queue, &completion, 1, WAIT_MS, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 1);
    return completion;
}

static inline void expect_next(cachetory_queue_t queue, cachetory_status_t status)
{
    cachetory_completion_t completion = next(queue);
    if (completion.status != status)
        fprintf(stderr, "call %llu: %s: %s\n", (unsigned long long)completion.tag,
                cachetory_status_name(completion.status), completion.message ? completion.message : "");
    CHECK(completion.status == status);
    cachetory_completion_free(&completion);
}

#endif
