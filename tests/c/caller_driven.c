/* caller_driven URL: calls complete while the library's I/O thread is stopped, so that only the thread that waits for
   them can have driven their I/O. A child process stops it, as a debugger does; where that is not allowed, the program
   says so. */
#define _GNU_SOURCE

#include "check_async.h"
#include "stopped_thread.h"
#include "threads.h"

enum { HABIT = 16, ATTEMPTS = 60, CALLS = 500, WINDOW = 12 };

static void note_thread(const char *thread, void *arg)
{
    *(pid_t *)arg = (pid_t)atoi(thread);
}

/* Whether a completion comes in so many milliseconds. */
static int completes(cachetory_queue_t queue, int64_t ms)
{
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    EXPECT(cachetory_queue_wait(queue, &completion, 1, ms, &count, &error), CACHETORY_OK, &error);
    if (count == 0)
        return 0;
    CHECK(completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
    return 1;
}

static void drive_alone(cachetory_t cache, cachetory_queue_t queue)
{
    for (uint64_t i = 0; i < CALLS; i++) {
        submit_get(cache, queue, i, "k");
        expect_next(queue, CACHETORY_OK);
    }
    for (int round = 0; round < CALLS / WINDOW; round++) {
        for (uint64_t i = 0; i < WINDOW; i++)
            submit_get(cache, queue, i, "k");
        for (int i = 0; i < WINDOW; i++)
            expect_next(queue, CACHETORY_OK);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    allow_holders();
    cachetory_t cache = open_cache(argv[1]);
    round_trip(cache, "k");
    int has_driven = 0;
    for (int attempt = 0; attempt < ATTEMPTS && !has_driven; attempt++) {
        /* A thread is predicted to wait for its calls when it has done so often. On a busy machine it may come late,
           which its queue remembers; so each attempt has a queue of its own. */
        cachetory_queue_t queue = open_queue();
        for (uint64_t i = 0; i < HABIT; i++) {
            submit_get(cache, queue, i, "k");
            expect_next(queue, CACHETORY_OK);
        }
        /* So that the I/O thread has nothing to drive. */
        wait_for_io_threads(1);
        wait_until_quiet();
        pid_t thread = 0;
        struct holder holder;
        CHECK(each_thread("cachetory-io", note_thread, &thread) == 1);
        if (!stop_thread(thread, &holder)) {
            let_go(&holder);
            printf("SKIPPED: whether a waiting thread drives its calls, for this process may not be traced\n");
            return 0;
        }
        submit_get(cache, queue, 1, "k");
        has_driven = completes(queue, 1000);
        if (has_driven)
            drive_alone(cache, queue);
        let_go(&holder);
        if (!has_driven)
            expect_next(queue, CACHETORY_OK);
        CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    }
    CHECK(has_driven);
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    return 0;
}
