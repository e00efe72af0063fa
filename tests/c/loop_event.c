/* loop_event URL CAPACITY drains|once METHOD: calls on libevent with that method (epoll, poll, select); where it is
   epoll and the loop drains, edge-triggered. */
#define _POSIX_C_SOURCE 200809L

#include "loop.h"

#include <event2/event.h>
#include <sys/time.h>

struct on_event {
    struct loop loop;
    struct event_base *base;
};

static void on_readable(evutil_socket_t fd, short events, void *arg)
{
    struct on_event *on = arg;
    (void)fd;
    CHECK(events & EV_READ);
    if (loop_turn(&on->loop))
        CHECK(event_base_loopbreak(on->base) == 0);
}

static void on_guard(evutil_socket_t fd, short events, void *arg)
{
    struct on_event *on = arg;
    (void)fd;
    (void)events;
    fprintf(stderr, "%u of %u calls are complete\n", on->loop.done, on->loop.next);
    CHECK(!"the calls complete in time");
}

static struct event_base *base_with(const char *method)
{
    struct event_config *config = event_config_new();
    CHECK(config != NULL);
    for (const char **each = event_get_supported_methods(); *each; each++)
        if (strcmp(*each, method) != 0)
            CHECK(event_config_avoid_method(config, *each) == 0);
    struct event_base *base = event_base_new_with_config(config);
    CHECK(base != NULL && strcmp(event_base_get_method(base), method) == 0);
    event_config_free(config);
    return base;
}

int main(int argc, char **argv)
{
    static struct on_event on;
    struct timeval patience = {WAIT_MS / 1000, 0};
    CHECK(argc == 5);
    loop_open(&on.loop, argv + 1);
    on.base = base_with(argv[4]);
    short edge = on.loop.drains && strcmp(argv[4], "epoll") == 0 ? EV_ET : 0;
    struct event *readable =
        event_new(on.base, loop_fd(&on.loop), (short)(EV_READ | EV_PERSIST | edge), on_readable, &on);
    struct event *guard = event_new(on.base, -1, 0, on_guard, &on);
    CHECK(readable && guard && event_add(readable, NULL) == 0 && event_add(guard, &patience) == 0);
    loop_submit(&on.loop);
    CHECK(event_base_dispatch(on.base) == 0);
    event_free(readable);
    event_free(guard);
    event_base_free(on.base);
    loop_close(&on.loop);
    return 0;
}
