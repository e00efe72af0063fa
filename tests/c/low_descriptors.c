/* low_descriptors FD... URL: with these of 0, 1 and 2 closed, nothing of the library's takes their places. */
#define _GNU_SOURCE

#include "check_async.h"
#include "processes.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

static int is_closed[3];

/* The kernel gives the lowest number there is, so for a moment, until it is moved, one of the library's threads may
   have something there. */
static void look(void)
{
    for (int fd = 0; fd < 3; fd++)
        while (is_closed[fd] && fcntl(fd, F_GETFD) != -1)
            sched_yield();
}

int main(int argc, char **argv)
{
    const char *url = argv[argc - 1];
    cachetory_completion_t completion;
    size_t count = 0;
    alarm(GUARD_SECONDS);
    for (int i = 1; i < argc - 1; i++) {
        is_closed[atoi(argv[i])] = 1;
        close(atoi(argv[i]));
    }
    cachetory_t cache = open_cache(url);
    look();
    round_trip(cache, "k");
    look();
    cachetory_queue_t queue = open_queue();
    async_round_trip(cache, queue, "k");
    look();
    struct pollfd readable = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    CHECK(readable.fd > 2);
    look();
    for (uint64_t tag = 0; tag < 100; tag++)
        submit_get(cache, queue, tag, "k");
    for (int left = 100; left > 0; left -= (int)count) {
        CHECK(poll(&readable, 1, WAIT_MS) == 1);
        CHECK(cachetory_queue_wait(queue, &completion, 1, 0, &count, NULL) == CACHETORY_OK);
        if (count)
            cachetory_completion_free(&completion);
        look();
    }
    cachetory_t other = open_cache(url);
    round_trip(other, "k");
    look();
    CHECK(cachetory_close(other) == CACHETORY_OK && cachetory_close(cache) == CACHETORY_OK);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    look();
    return 0;
}
