/* This library. One handle for all threads; several in flight: cachetory_get_async and a queue for each thread. How the
 * thread waits for its completions is BENCH_WAIT, and each way is a driver. */
#include "driver.h"

#include <cachetory.h>
#include <stdio.h>
#include <stdlib.h>

/* The ways: in cachetory_queue_wait; likewise, but the descriptor was asked for once; with poll on the descriptor; in
 * an event loop of libevent's, among whose events the descriptor is. */
#define IN_QUEUE_WAIT 0
#define IN_QUEUE_WAIT_ASKED 1
#define BY_POLL 2
#define BY_EVENT 3

#ifndef BENCH_WAIT
#define BENCH_WAIT IN_QUEUE_WAIT
#endif

#if BENCH_WAIT == BY_POLL
#include <poll.h>
#elif BENCH_WAIT == BY_EVENT
#include <event2/event.h>
#endif

/* The synchronous calls are measured once, not for each way. */
enum { ONLY_IN_FLIGHT = BENCH_WAIT != IN_QUEUE_WAIT };

struct client {
    cachetory_t cache;
};

/* A thread's queue, and the calls that it has there. */
struct loop {
    cachetory_t cache;
    cachetory_queue_t queue;
    const struct job *job;
    struct in_flight *in_flight;
    size_t outstanding;
    long outcome;
#if BENCH_WAIT == BY_POLL
    int fd;
#elif BENCH_WAIT == BY_EVENT
    struct event_base *base;
    struct event *event;
#endif
};

struct batch {
    cachetory_bytes_t *keys;
    cachetory_item_t *items;
};

static long failed(const cachetory_error_t *error)
{
    fprintf(stderr, "cachetory: %s: %s\n", cachetory_status_name(error->status), error->message);
    return BENCH_FAILED;
}

static void *open_client(const struct target *target, const char **why)
{
    static char text[sizeof((cachetory_error_t *)0)->message];
    char url[1024];
    const char *options = target->options;
    /* What is in memory is complete at once: how one waits for it makes no difference. */
    if (ONLY_IN_FLIGHT && target->transport == BENCH_MEMORY)
        return NULL;
    switch (target->transport) {
    case BENCH_UNIX:
        snprintf(url, sizeof url, "unix://%s?%s", target->unix_path, options);
        break;
    case BENCH_TCP:
        snprintf(url, sizeof url, "redis://127.0.0.1:%d?%s", target->port, options);
        break;
    case BENCH_TLS:
        snprintf(url, sizeof url, "rediss://localhost:%d?ssl_ca_certs=%s&%s", target->port, target->ca_file, options);
        break;
    case BENCH_MEMORY:
        snprintf(url, sizeof url, "memory://?%s", options);
        break;
    }
    struct client *client = calloc(1, sizeof *client);
    cachetory_error_t error;
    if (client == NULL || cachetory_open_url(url, &client->cache, &error) < 0) {
        snprintf(text, sizeof text, "%s", client == NULL ? "no memory" : error.message);
        *why = text;
        free(client);
        return NULL;
    }
    return client;
}

static void close_client(void *opaque)
{
    struct client *client = opaque;
    cachetory_close(client->cache);
    free(client);
}

static void *prepare(const struct job *job, enum operation operation)
{
    (void)operation;
    struct batch *batch = malloc(sizeof *batch);
    batch->keys = malloc(job->count * sizeof *batch->keys);
    batch->items = malloc(job->count * sizeof *batch->items);
    for (size_t i = 0; i < job->count; i++) {
        batch->keys[i] = (cachetory_bytes_t){job->keys[i].data, job->keys[i].len};
        batch->items[i].key = batch->keys[i];
        batch->items[i].value = (cachetory_bytes_t){job->values[i].data, job->values[i].len};
    }
    return batch;
}

static void discard(void *prepared)
{
    struct batch *batch = prepared;
    free(batch->keys);
    free(batch->items);
    free(batch);
}

static long get(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    cachetory_value_t value;
    cachetory_error_t error;
    cachetory_status_t status =
        cachetory_get(((struct client *)client)->cache, job->keys[0].data, job->keys[0].len, &value, &error);
    if (status == CACHETORY_NOT_FOUND)
        return BENCH_MISS;
    if (status < 0)
        return failed(&error);
    long received = (long)value.len;
    cachetory_value_free(&value);
    return received;
}

static long set(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    cachetory_error_t error;
    int64_t ttl = job->ttl_ms > 0 ? job->ttl_ms : CACHETORY_NO_EXPIRY;
    if (cachetory_set(((struct client *)client)->cache, job->keys[0].data, job->keys[0].len, job->values[0].data,
                      job->values[0].len, ttl, 0, &error) < 0)
        return failed(&error);
    return 0;
}

static long mget(void *client, const struct job *job, void *prepared)
{
    const struct batch *batch = prepared;
    cachetory_values_t values;
    cachetory_error_t error;
    if (cachetory_mget(((struct client *)client)->cache, batch->keys, job->count, &values, &error) < 0)
        return failed(&error);
    long received = 0;
    for (size_t i = 0; i < values.len; i++)
        received += (long)values.items[i].len;
    cachetory_values_free(&values);
    return received;
}

static long mset(void *client, const struct job *job, void *prepared)
{
    const struct batch *batch = prepared;
    cachetory_error_t error;
    if (cachetory_mset(((struct client *)client)->cache, batch->items, job->count, CACHETORY_NO_EXPIRY, 0, &error) < 0)
        return failed(&error);
    return 0;
}

static void submit(struct loop *loop, size_t slot)
{
    cachetory_error_t error;
    const struct bytes *key = &loop->job->keys[slot];
    cachetory_status_t status = cachetory_get_async(loop->cache, loop->queue, slot, key->data, key->len, &error);
    if (status >= 0)
        loop->outstanding++;
    else
        loop->outcome = status == CACHETORY_ERR_UNSUPPORTED ? BENCH_UNSUPPORTED : failed(&error);
}

/* What a completion brings; frees it. */
static long received_from(cachetory_completion_t *completion)
{
    long received = (long)completion->value.len;
    if (completion->status == CACHETORY_NOT_FOUND) {
        received = BENCH_MISS;
    } else if (completion->status < 0) {
        received = completion->status == CACHETORY_ERR_UNSUPPORTED ? BENCH_UNSUPPORTED : BENCH_FAILED;
        fprintf(stderr, "cachetory: %s: %s\n", cachetory_status_name(completion->status), completion->message);
    }
    cachetory_completion_free(completion);
    return received;
}

/* Takes completions, and starts the next GET at each one's slot. False where there is no more to wait for. */
static bool take(struct loop *loop, int64_t timeout_ms)
{
    cachetory_completion_t done[256];
    cachetory_error_t error;
    size_t count;
    if (cachetory_queue_wait(loop->queue, done, sizeof done / sizeof *done, timeout_ms, &count, &error) < 0) {
        loop->outcome = failed(&error);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        size_t slot = (size_t)done[i].tag;
        long received = received_from(&done[i]);
        if (received == BENCH_UNSUPPORTED)
            loop->outcome = received;
        in_flight_end(loop->in_flight, slot, received);
        loop->outstanding--;
        if (loop->outcome == 0 && in_flight_start(loop->in_flight, slot))
            submit(loop, slot);
    }
    return loop->outstanding > 0;
}

#if BENCH_WAIT == BY_EVENT
/* Once for each event: the descriptor stays readable while there is more to do. */
static void readable(evutil_socket_t fd, short what, void *opaque)
{
    struct loop *loop = opaque;
    (void)fd, (void)what;
    if (!take(loop, 0))
        event_base_loopbreak(loop->base);
}
#endif

static void *attach(void *client)
{
    cachetory_error_t error;
    struct loop *loop = calloc(1, sizeof *loop);
    loop->cache = ((struct client *)client)->cache;
    if (cachetory_queue_open(&loop->queue, &error) < 0) {
        failed(&error);
        free(loop);
        return NULL;
    }
#if BENCH_WAIT != IN_QUEUE_WAIT
    int fd = cachetory_queue_fd(loop->queue);
#endif
#if BENCH_WAIT == IN_QUEUE_WAIT_ASKED
    (void)fd;
#elif BENCH_WAIT == BY_POLL
    loop->fd = fd;
#elif BENCH_WAIT == BY_EVENT
    loop->base = event_base_new();
    loop->event = event_new(loop->base, fd, EV_READ | EV_PERSIST, readable, loop);
    event_add(loop->event, NULL);
#endif
    return loop;
}

static void detach(void *attached)
{
    struct loop *loop = attached;
#if BENCH_WAIT == BY_EVENT
    event_free(loop->event);
    event_base_free(loop->base);
#endif
    cachetory_queue_close(loop->queue);
    free(loop);
}

static void wait_for_all(struct loop *loop)
{
#if BENCH_WAIT == BY_EVENT
    event_base_dispatch(loop->base);
#elif BENCH_WAIT == BY_POLL
    struct pollfd ready = {.fd = loop->fd, .events = POLLIN};
    do
        poll(&ready, 1, -1);
    while (take(loop, 0));
#else
    while (take(loop, CACHETORY_NO_EXPIRY))
        ;
#endif
}

static long keep_in_flight(void *attached, const struct job *job, struct in_flight *in_flight)
{
    struct loop *loop = attached;
    loop->job = job;
    loop->in_flight = in_flight;
    loop->outcome = 0;
    for (size_t slot = 0; slot < job->count && loop->outcome == 0 && in_flight_start(in_flight, slot); slot++)
        submit(loop, slot);
    if (loop->outstanding > 0)
        wait_for_all(loop);
    return loop->outcome;
}

const struct driver bench_driver = {
#if BENCH_WAIT == BY_EVENT
    .version = "this library, libevent " LIBEVENT_VERSION,
#else
    .version = "this library",
#endif
    .shared = true,
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .get = ONLY_IN_FLIGHT ? NULL : get,
    .set = ONLY_IN_FLIGHT ? NULL : set,
    .mget = ONLY_IN_FLIGHT ? NULL : mget,
    .mset = ONLY_IN_FLIGHT ? NULL : mset,
    .attach = attach,
    .detach = detach,
    .keep_in_flight = keep_in_flight,
};
