/* loop_uv URL CAPACITY drains|once: calls on libuv, two loops in the process of which each has a thread and a queue. */
#define _POSIX_C_SOURCE 200809L

#include "loop.h"

#include <pthread.h>
#include <uv.h>

struct on_uv {
    struct loop loop;
    uv_loop_t uv;
    uv_poll_t readable;
    uv_timer_t guard;
};

static void on_closed(uv_handle_t *handle)
{
    (void)handle;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct on_uv *on = poll->data;
    CHECK(status == 0 && (events & UV_READABLE));
    if (loop_turn(&on->loop)) {
        uv_poll_stop(poll);
        uv_close((uv_handle_t *)poll, on_closed);
        uv_close((uv_handle_t *)&on->guard, on_closed);
    }
}

static void on_guard(uv_timer_t *timer)
{
    struct on_uv *on = timer->data;
    fprintf(stderr, "%u of %u calls are complete\n", on->loop.done, on->loop.next);
    CHECK(!"the calls complete in time");
}

static void *run(void *arguments)
{
    struct on_uv *on = malloc(sizeof *on);
    CHECK(on != NULL);
    loop_open(&on->loop, arguments);
    CHECK(uv_loop_init(&on->uv) == 0);
    on->readable.data = on->guard.data = on;
    int fd = loop_duplicate(&on->loop);
    CHECK(uv_poll_init(&on->uv, &on->readable, fd) == 0);
    CHECK(uv_poll_start(&on->readable, UV_READABLE, on_readable) == 0);
    CHECK(uv_timer_init(&on->uv, &on->guard) == 0);
    CHECK(uv_timer_start(&on->guard, on_guard, WAIT_MS, 0) == 0);
    loop_submit(&on->loop);
    CHECK(uv_run(&on->uv, UV_RUN_DEFAULT) == 0);
    CHECK(uv_loop_close(&on->uv) == 0);
    close(fd);
    loop_close(&on->loop);
    free(on);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t other;
    CHECK(argc == 4);
    CHECK(pthread_create(&other, NULL, run, argv + 1) == 0);
    run(argv + 1);
    CHECK(pthread_join(other, NULL) == 0);
    return 0;
}
