/* async: what a C program does with asynchronous calls, step by step, on memory. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <poll.h>
#include <unistd.h>

enum { MANY = 1000 };

static int is_readable(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    int ready = poll(&polled, 1, 0);
    CHECK(ready >= 0);
    return ready;
}

/* The loop of a program that polls: submit many, drain whenever the descriptor says so. */
static void poll_loop(cachetory_t cache, cachetory_queue_t queue)
{
    static char seen[MANY];
    cachetory_completion_t completions[64];
    cachetory_error_t error;
    size_t count, left = MANY;
    int fd = cachetory_queue_fd(queue);
    CHECK(fd >= 0 && fd == cachetory_queue_fd(queue) && !is_readable(fd));
    memset(seen, 0, sizeof seen);
    for (uint64_t tag = 0; tag < MANY; tag++)
        EXPECT(cachetory_get_async(cache, queue, tag, "key", CACHETORY_STRLEN, &error), CACHETORY_OK, &error);
    while (left > 0) {
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        CHECK(poll(&polled, 1, WAIT_MS) == 1);
        do {
            EXPECT(cachetory_queue_wait(queue, completions, 64, 0, &count, &error), CACHETORY_OK, &error);
            for (size_t i = 0; i < count; i++, left--) {
                cachetory_completion_t *completion = &completions[i];
                CHECK(completion->tag < MANY && !seen[completion->tag]++);
                CHECK(completion->status == CACHETORY_OK && completion->value.len == 5);
                cachetory_completion_free(completion);
            }
        } while (count > 0);
    }
    CHECK(!is_readable(fd));
}

/* The parts of a completion are released apart, moved out, or left to completion_free, in any order and twice. */
static void ownership(cachetory_t cache, cachetory_queue_t queue)
{
    cachetory_error_t error;
    cachetory_bytes_t keys[] = {{"key", 3}, {"none", CACHETORY_STRLEN}, {"key", CACHETORY_STRLEN}};
    for (int way = 0; way < 4; way++) {
        EXPECT(cachetory_mget_async(cache, queue, 1, keys, 3, &error), CACHETORY_OK, &error);
        EXPECT(cachetory_get_async(cache, queue, 2, "key", 3, &error), CACHETORY_OK, &error);
        for (int i = 0; i < 2; i++) {
            cachetory_completion_t completion = next_completion(queue);
            cachetory_value_t value = completion.value;
            cachetory_values_t values = completion.values;
            CHECK(completion.status == CACHETORY_OK && completion.message == NULL);
            CHECK(completion.tag == 1 ? values.len == 3 && values.items[1].data == NULL && value.data == NULL
                                      : values.items == NULL && value.len == 5);
            if (way == 1) {
                cachetory_value_free(&completion.value);
                cachetory_values_free(&completion.values);
            }
            if (way >= 2) {
                completion.value = (cachetory_value_t){0};
                completion.values = (cachetory_values_t){0};
            }
            cachetory_completion_free(&completion);
            if (way == 3)
                cachetory_completion_free(&completion);
            CHECK(completion.tag == 0 && completion.value.data == NULL && completion.values.items == NULL);
            if (way >= 2) {
                CHECK(completion.tag == 1 || value.data == NULL || memcmp(value.data, "value", 6) == 0);
                cachetory_value_free(&value);
                cachetory_values_free(&values);
            }
        }
    }
    cachetory_completion_free(NULL);
    cachetory_completion_t zero = {0};
    cachetory_completion_free(&zero);
}

static void writes(cachetory_t cache, cachetory_queue_t queue)
{
    cachetory_item_t items[] = {{{"a", 1}, {"1", 1}}, {{"b", 1}, {"2", 1}}};
    cachetory_bytes_t keys[] = {{"a", 1}, {"b", 1}, {"c", 1}};
    const cachetory_status_t wanted[] = {CACHETORY_OK, CACHETORY_NOT_STORED, CACHETORY_OK, CACHETORY_NOT_FOUND,
                                         CACHETORY_OK, CACHETORY_NOT_FOUND, CACHETORY_OK};
    cachetory_completion_t completion;
    CHECK(cachetory_mset_async(cache, queue, 0, items, 2, 60000, 0, NULL) == CACHETORY_OK);
    CHECK(cachetory_set_async(cache, queue, 1, "a", 1, "x", 1, CACHETORY_NO_EXPIRY, CACHETORY_SET_IF_NOT_EXISTS,
                              NULL) == CACHETORY_OK);
    CHECK(cachetory_expire_in_async(cache, queue, 2, "a", 1, 60000, NULL) == CACHETORY_OK);
    CHECK(cachetory_expire_at_async(cache, queue, 3, "none", 4, CACHETORY_NO_EXPIRY, NULL) == CACHETORY_OK);
    CHECK(cachetory_delete_async(cache, queue, 4, "a", 1, NULL) == CACHETORY_OK);
    CHECK(cachetory_delete_async(cache, queue, 5, "a", 1, NULL) == CACHETORY_OK);
    CHECK(cachetory_ping_async(cache, queue, 6, NULL) == CACHETORY_OK);
    for (int i = 0; i < 7; i++) {
        completion = next_completion(queue);
        CHECK(completion.tag < 7 && completion.status == wanted[completion.tag]);
        cachetory_completion_free(&completion);
    }
    CHECK(cachetory_mdelete_async(cache, queue, 7, keys, 3, NULL) == CACHETORY_OK);
    completion = next_completion(queue);
    CHECK(completion.tag == 7 && completion.status == CACHETORY_OK && completion.deleted == 1);
    cachetory_completion_free(&completion);
    CHECK(cachetory_clear_async(cache, queue, 8, NULL) == CACHETORY_OK);
    completion = next_completion(queue);
    CHECK(completion.tag == 8 && completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
}

int main(void)
{
    cachetory_error_t error;
    cachetory_queue_t queue = {0};
    cachetory_completion_t completion;
    size_t count;
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && cachetory_queue_fd(queue) == -1);
    EXPECT(cachetory_queue_open(&queue, &error), CACHETORY_OK, &error);
    cachetory_t cache = open_cache("memory://");
    async_round_trip(cache, queue, "some key");
    CHECK(cachetory_set(cache, "key", 3, "value", 5, CACHETORY_NO_EXPIRY, 0, &error) == CACHETORY_OK);
    poll_loop(cache, queue);
    ownership(cache, queue);
    writes(cache, queue);

    EXPECT(cachetory_queue_cancel(queue, 1, &error), CACHETORY_NOT_FOUND, &error);
    EXPECT(cachetory_queue_wait(queue, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 0);

    /* What nobody takes is released with the queue; who polls a duplicate of its descriptor is woken. */
    CHECK(cachetory_ping_async(cache, queue, 1, NULL) == CACHETORY_OK);
    completion = next_completion(queue);
    CHECK(cachetory_get_async(cache, queue, 2, "key", 3, NULL) == CACHETORY_OK);
    int duplicate = dup(cachetory_queue_fd(queue));
    CHECK(duplicate >= 0);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    CHECK(is_readable(duplicate) && close(duplicate) == 0);
    CHECK(cachetory_queue_close(queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_ping_async(cache, queue, 3, &error) == CACHETORY_ERR_CLOSED && error.message[0] != '\0');
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    CHECK(completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
    return 0;
}
