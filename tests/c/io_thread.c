/* io_thread URL HUNG: the library's I/O thread comes with the first asynchronous call over a network, goes with the
   last cache, is deaf to signals, and sleeps while there is nothing to do. HUNG is a server that never answers. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"
#include "threads.h"

#include <signal.h>

/* Every signal that can be is blocked; glibc keeps two to itself. */
static void is_deaf(const char *thread, void *arg)
{
    char mask[64];
    (void)arg;
    if (!read_status(thread, "SigBlk:", mask, sizeof mask))
        return;
    unsigned long long blocked = strtoull(mask, NULL, 16);
    for (int number = 1; number <= SIGRTMAX; number++) {
        int open = number == SIGKILL || number == SIGSTOP || (number > 31 && number < SIGRTMIN);
        CHECK(open || (blocked >> (number - 1) & 1));
    }
}

static void many_calls(cachetory_t cache, cachetory_queue_t queue)
{
    for (int i = 0; i < 200; i++)
        submit_set(cache, queue, (uint64_t)i, "k");
    for (int i = 0; i < 200; i++)
        expect_next(queue, CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    cachetory_t store = open_cache("memory://"), nothing = open_cache("dummy://");
    cachetory_t cache = open_cache(argv[1]), other = open_cache(argv[1]);
    cachetory_queue_t queue = open_queue();
    round_trip(cache, "k");
    CHECK(cachetory_queue_fd(queue) >= 0);
    submit_get(store, queue, 1, "k");
    expect_next(queue, CACHETORY_NOT_FOUND);
    submit_get(nothing, queue, 1, "k");
    expect_next(queue, CACHETORY_NOT_FOUND);
    CHECK(io_threads() == 0);

    many_calls(cache, queue);
    wait_for_io_threads(1);
    each_thread("cachetory-", is_deaf, NULL);
    wait_until_quiet();
    wait_for_io_threads(1);
    many_calls(other, queue);
    wait_for_io_threads(1);

    /* A server that hangs does not keep it awake. */
    cachetory_t hung = open_cache(argv[2]);
    submit_get(hung, queue, 1, "k");
    wait_until_quiet();
    CHECK(cachetory_close(hung) == CACHETORY_OK);
    expect_next(queue, CACHETORY_ERR_CANCELLED);

    CHECK(cachetory_close(cache) == CACHETORY_OK);
    many_calls(other, queue);
    wait_for_io_threads(1);
    CHECK(cachetory_close(other) == CACHETORY_OK);
    wait_for_io_threads(0);

    /* And once more, while a call is in flight. */
    cache = open_cache(argv[1]);
    many_calls(cache, queue);
    wait_for_io_threads(1);
    submit_get(cache, queue, 1, "k");
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    cachetory_completion_t last = next(queue);
    CHECK(last.status == CACHETORY_OK || last.status == CACHETORY_ERR_CANCELLED);
    cachetory_completion_free(&last);
    wait_for_io_threads(0);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    CHECK(cachetory_close(store) == CACHETORY_OK && cachetory_close(nothing) == CACHETORY_OK);
    return 0;
}
