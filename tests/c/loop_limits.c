/* loop_limits URL: a loop in a process that has only so many descriptors left, from none to plenty. Where there is none
   for the queue, its calls are waited for; and whatever there is none for, each call completes once. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST = 64, LEFT = 12, CALLS = 40 };

static int taken[MOST], count;

static void take_all_but(int left)
{
    while (count < MOST && (taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    CHECK(count >= left);
    while (left-- > 0)
        close(taken[--count]);
}

static void give_all_back(void)
{
    while (count > 0)
        close(taken[--count]);
}

/* Each of so many calls that is accepted completes once, well or for want of a descriptor; how many are answered. */
static int complete(cachetory_t cache, cachetory_queue_t queue)
{
    char is_outstanding[CALLS] = {0};
    int answered = 0, left = 0;
    cachetory_error_t error;
    for (uint64_t tag = 0; tag < CALLS; tag++) {
        cachetory_status_t status = cachetory_get_async(cache, queue, tag, "k", 1, &error);
        is_outstanding[tag] = status == CACHETORY_OK;
        left += status == CACHETORY_OK;
        if (status != CACHETORY_OK)
            CHECK(status == CACHETORY_ERR_NO_MEMORY && error.flags == CACHETORY_ERROR_RETRYABLE);
    }
    struct pollfd readable = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    while (left > 0) {
        cachetory_completion_t completions[7];
        size_t some;
        /* Where there is no descriptor, the queue is waited on. */
        if (readable.fd >= 0)
            CHECK(poll(&readable, 1, WAIT_MS) == 1);
        EXPECT(cachetory_queue_wait(queue, completions, 7, readable.fd >= 0 ? 0 : WAIT_MS, &some, &error),
               CACHETORY_OK, &error);
        CHECK(some > 0 || readable.fd >= 0);
        for (size_t i = 0; i < some; i++) {
            uint64_t tag = completions[i].tag;
            CHECK(tag < CALLS && is_outstanding[tag]);
            is_outstanding[tag] = 0;
            if (completions[i].status != CACHETORY_ERR_NO_MEMORY)
                CHECK(completions[i].status == CACHETORY_OK);
            answered += completions[i].status == CACHETORY_OK;
            cachetory_completion_free(&completions[i]);
        }
        left -= (int)some;
    }
    return answered;
}

/* The queue is opened and its descriptor asked for while only `left` can be had. With `linked` the cache has a link. */
static void with_so_many_left(const char *url, int left, int linked)
{
    cachetory_t cache = open_cache(url), other = open_cache(url);
    if (linked)
        round_trip(cache, "k");
    round_trip(other, "k");
    take_all_but(left);
    cachetory_queue_t queue;
    cachetory_error_t error;
    cachetory_status_t opened = cachetory_queue_open(&queue, &error);
    if (opened == CACHETORY_OK) {
        int fd = cachetory_queue_fd(queue);
        CHECK(fd >= -1 && (left > 0 || fd == -1));
        int answered = complete(cache, queue);
        if (answered == 0 && left > 6)
            fprintf(stderr, "none of the calls is answered with %d descriptors left\n", left);
        CHECK(answered > 0 || left <= 6);
        complete(other, queue);
    } else {
        CHECK(opened == CACHETORY_ERR_NO_MEMORY && error.flags == CACHETORY_ERROR_RETRYABLE);
    }
    give_all_back();
    if (opened != CACHETORY_OK)
        queue = open_queue();
    /* All is well again, whatever could not be had. */
    CHECK(complete(cache, queue) == CALLS);
    CHECK(cachetory_queue_fd(queue) >= 0);
    CHECK(complete(cache, queue) == CALLS && complete(other, queue) == CALLS);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    CHECK(cachetory_close(cache) == CACHETORY_OK && cachetory_close(other) == CACHETORY_OK);
}

/* The queue has its descriptor before, and its links are dialled when there is none. */
static void with_a_queue_and_so_many_left(const char *url, int left)
{
    cachetory_t cache = open_cache(url);
    cachetory_queue_t queue = open_queue();
    CHECK(cachetory_queue_fd(queue) >= 0);
    take_all_but(left);
    complete(cache, queue);
    give_all_back();
    round_trip(cache, "k");
    CHECK(complete(cache, queue) == CALLS);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && cachetory_close(cache) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    struct rlimit bounds;
    CHECK(argc == 2 && getrlimit(RLIMIT_NOFILE, &bounds) == 0);
    bounds.rlim_cur = MOST;
    CHECK(setrlimit(RLIMIT_NOFILE, &bounds) == 0);
    for (int left = 0; left < LEFT; left++) {
        with_so_many_left(argv[1], left, 0);
        with_so_many_left(argv[1], left, 1);
        with_a_queue_and_so_many_left(argv[1], left);
    }
    return 0;
}
