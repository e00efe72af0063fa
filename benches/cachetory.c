/* This library. One handle for all threads; several in flight: cachetory_get_async and one queue, on which the thread
 * waits, or, as an event loop does, on the queue's descriptor: BENCH_BY_DESCRIPTOR. */
#include "driver.h"

#include <cachetory.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef BENCH_BY_DESCRIPTOR
#define BENCH_BY_DESCRIPTOR 0
#endif

struct client {
    cachetory_t cache;
    cachetory_queue_t queue; /* opened when it is first needed */
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
    if (BENCH_BY_DESCRIPTOR && target->transport == BENCH_MEMORY)
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
    cachetory_queue_close(client->queue);
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

static cachetory_status_t submit(struct client *client, const struct job *job, size_t slot, cachetory_error_t *error)
{
    return cachetory_get_async(client->cache, client->queue, slot, job->keys[slot].data, job->keys[slot].len, error);
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

/* Takes what is complete, once something is. */
static cachetory_status_t reap(cachetory_queue_t queue, cachetory_completion_t *done, size_t room, size_t *count,
                               cachetory_error_t *error)
{
    if (!BENCH_BY_DESCRIPTOR)
        return cachetory_queue_wait(queue, done, room, CACHETORY_NO_EXPIRY, count, error);
    struct pollfd ready = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    poll(&ready, 1, -1);
    return cachetory_queue_wait(queue, done, room, 0, count, error);
}

static long keep_in_flight(void *opaque, const struct job *job, struct in_flight *in_flight)
{
    struct client *client = opaque;
    cachetory_completion_t done[256];
    cachetory_error_t error;
    size_t outstanding = 0;
    long outcome = 0;
    if (client->queue.id == 0 && cachetory_queue_open(&client->queue, &error) < 0)
        return failed(&error);
    for (size_t slot = 0; slot < job->count && in_flight_start(in_flight, slot); slot++) {
        cachetory_status_t status = submit(client, job, slot, &error);
        if (status < 0) {
            outcome = status == CACHETORY_ERR_UNSUPPORTED ? BENCH_UNSUPPORTED : failed(&error);
            break;
        }
        outstanding++;
    }
    while (outstanding > 0) {
        size_t count;
        if (reap(client->queue, done, sizeof done / sizeof *done, &count, &error) < 0)
            return failed(&error);
        for (size_t i = 0; i < count; i++) {
            size_t slot = (size_t)done[i].tag;
            long received = received_from(&done[i]);
            if (received == BENCH_UNSUPPORTED)
                outcome = received;
            in_flight_end(in_flight, slot, received);
            outstanding--;
            if (outcome == 0 && in_flight_start(in_flight, slot)) {
                if (submit(client, job, slot, &error) < 0)
                    outcome = failed(&error);
                else
                    outstanding++;
            }
        }
    }
    return outcome;
}

const struct driver bench_driver = {
    .version = "this library",
    .shared = true,
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .get = BENCH_BY_DESCRIPTOR ? NULL : get,
    .set = BENCH_BY_DESCRIPTOR ? NULL : set,
    .mget = BENCH_BY_DESCRIPTOR ? NULL : mget,
    .mset = BENCH_BY_DESCRIPTOR ? NULL : mset,
    .keep_in_flight = keep_in_flight,
};
