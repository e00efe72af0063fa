/* loop_driven URL: a loop on the descriptor of a queue does its I/O itself, and so does who waits on a queue whose
   descriptor was asked for: calls complete while the library's I/O thread is stopped. And where it is not stopped it
   sleeps beside a loop. Where a thread may not be stopped, the program says so. */
#define _GNU_SOURCE

#include "check_async.h"
#include "stopped_thread.h"
#include "threads.h"

#include <poll.h>
#include <sys/epoll.h>

enum { HABIT = 16, ATTEMPTS = 30, CALLS = 2000, WINDOW = 24, SOON_MS = 2000 };

enum way { WAITS, POLLS, LEVEL, EDGE, WAYS };
static const char *const names[] = {"waits", "polls", "level-triggered", "edge-triggered"};

struct loop {
    cachetory_t cache;
    cachetory_queue_t queue;
    enum way way;
    int epoll;
    unsigned steps;
};

static struct loop open_loop(cachetory_t cache, enum way way)
{
    struct loop loop = {cache, open_queue(), way, epoll_create1(EPOLL_CLOEXEC), 0};
    int fd = cachetory_queue_fd(loop.queue);
    struct epoll_event event = {.events = way == EDGE ? EPOLLIN | EPOLLET : EPOLLIN};
    CHECK(fd >= 0 && loop.epoll >= 0 && epoll_ctl(loop.epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    return loop;
}

static void close_loop(struct loop *loop)
{
    close(loop->epoll);
    CHECK(cachetory_queue_close(loop->queue) == CACHETORY_OK);
}

/* Until the descriptor is readable, or so long. */
static int readable(struct loop *loop, int ms)
{
    struct pollfd fd = {.fd = cachetory_queue_fd(loop->queue), .events = POLLIN};
    struct epoll_event event;
    return loop->way == POLLS ? poll(&fd, 1, ms) == 1 : epoll_wait(loop->epoll, &event, 1, ms) == 1;
}

/* Takes completions until there are none, and counts them. */
static int take(struct loop *loop, int64_t ms)
{
    cachetory_completion_t completions[8];
    cachetory_error_t error;
    size_t count;
    int all = 0;
    do {
        EXPECT(cachetory_queue_wait(loop->queue, completions, 8, ms, &count, &error), CACHETORY_OK, &error);
        for (size_t i = 0; i < count; i++) {
            CHECK(completions[i].status == CACHETORY_OK);
            cachetory_completion_free(&completions[i]);
        }
        all += (int)count;
    } while (count > 0 && loop->way != WAITS);
    return all;
}

/* Makes so many calls, `window` of them at a time, and waits up to `ms` for each step; how many calls are left
   outstanding, which is none where no step was missing. */
static int drive(struct loop *loop, int calls, int window, int ms)
{
    int next = 0, done = 0;
    loop->steps = 0;
    while (done < calls) {
        while (next < calls && next - done < window)
            submit_get(loop->cache, loop->queue, (uint64_t)next++, "k");
        if (loop->way != WAITS && !readable(loop, ms))
            return next - done;
        int taken = take(loop, loop->way == WAITS ? ms : 0);
        if (loop->way == WAITS && taken == 0)
            return next - done;
        done += taken;
        loop->steps++;
    }
    return 0;
}

static void note_thread(const char *thread, void *arg)
{
    *(pid_t *)arg = (pid_t)atoi(thread);
}

/* The one thread of that name, which has nothing to do. */
static pid_t quiet_io_thread(void)
{
    pid_t thread = 0;
    wait_for_io_threads(1);
    wait_until_quiet();
    CHECK(each_thread("cachetory-io", note_thread, &thread) == 1);
    return thread;
}

/* Whether a thread may be stopped. */
static int drives_alone(cachetory_t cache, enum way way, int window)
{
    int has_driven = 0;
    /* On a busy machine the loop may come so late that the I/O thread is asked to see to a call. */
    for (int attempt = 0; attempt < ATTEMPTS && !has_driven; attempt++) {
        struct loop loop = open_loop(cache, way);
        struct holder holder;
        CHECK(drive(&loop, HABIT, 1, WAIT_MS) == 0);
        if (!stop_thread(quiet_io_thread(), &holder)) {
            let_go(&holder);
            return 0;
        }
        int left = drive(&loop, CALLS, window, SOON_MS);
        has_driven = left == 0;
        let_go(&holder);
        for (; left > 0; left--)
            expect_next(loop.queue, CACHETORY_OK);
        close_loop(&loop);
    }
    if (!has_driven)
        fprintf(stderr, "%s, %d in flight\n", names[way], window);
    CHECK(has_driven);
    return 1;
}

static unsigned long long wakeups(void)
{
    char text[64] = "";
    char name[16];
    pid_t thread = 0;
    CHECK(each_thread("cachetory-io", note_thread, &thread) == 1);
    snprintf(name, sizeof name, "%d", (int)thread);
    CHECK(read_status(name, "voluntary_ctxt_switches:", text, sizeof text));
    return strtoull(text, NULL, 10);
}

/* It covers for a loop that is late, which happens on a busy machine, and has no part in the rest. */
static void leaves_it_alone(cachetory_t cache, enum way way, int window)
{
    struct loop loop = open_loop(cache, way);
    CHECK(drive(&loop, HABIT, 1, WAIT_MS) == 0);
    quiet_io_thread();
    unsigned long long before = wakeups();
    CHECK(drive(&loop, CALLS, window, WAIT_MS) == 0);
    unsigned long long woken = wakeups() - before;
    if (woken > loop.steps / 4)
        fprintf(stderr, "%s, %d in flight: woken %llu times in %u steps\n", names[way], window, woken, loop.steps);
    CHECK(woken <= loop.steps / 4);
    close_loop(&loop);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    allow_holders();
    cachetory_t cache = open_cache(argv[1]);
    round_trip(cache, "k");
    for (int way = 0; way < WAYS; way++) {
        for (int window = 1; window <= WINDOW; window += WINDOW - 1) {
            /* For who waits it stands by after a millisecond, which is often too short on a busy machine. */
            if (way != WAITS)
                leaves_it_alone(cache, (enum way)way, window);
            if (!drives_alone(cache, (enum way)way, window)) {
                printf("SKIPPED: whether a loop drives its calls, for this process may not be traced\n");
                way = WAYS;
                break;
            }
        }
    }
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    return 0;
}
