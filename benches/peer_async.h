/* The driver for hiredis's and for libvalkey's asynchronous calls, on libevent. The two differ in nothing but names,
 * which peer_hiredis.h and peer_libvalkey.h have. */
#include "driver.h"
#include "libevent.h"

struct client {
    struct event_base *base;
    PEER(AsyncContext) *context;
    const struct job *job;
    struct in_flight *in_flight;
    size_t outstanding;
    bool failed;
};

static void readable(evutil_socket_t fd, short what, void *context)
{
    (void)fd, (void)what;
    PEER(AsyncHandleRead)(context);
}

static void writable(evutil_socket_t fd, short what, void *context)
{
    (void)fd, (void)what;
    PEER(AsyncHandleWrite)(context);
}

static void *open_client(const struct target *target, const char **why)
{
    PEER(AsyncContext) *context = NULL;
    if (target->transport == BENCH_UNIX)
        context = PEER(AsyncConnectUnix)(target->unix_path);
    else if (target->transport == BENCH_TCP)
        context = PEER(AsyncConnect)("127.0.0.1", target->port);
    if (context == NULL)
        return NULL;
    if (context->err) {
        *why = "cannot connect";
        PEER(AsyncFree)(context);
        return NULL;
    }
    struct client *client = calloc(1, sizeof *client);
    client->base = event_base_new();
    client->context = context;
    context->data = client;
    context->ev.data = events_new(client->base, context->c.fd, readable, writable, context);
    context->ev.addRead = events_add_read;
    context->ev.delRead = events_del_read;
    context->ev.addWrite = events_add_write;
    context->ev.delWrite = events_del_write;
    context->ev.cleanup = events_free;
    return client;
}

static void close_client(void *opaque)
{
    struct client *client = opaque;
    /* After a failure the peer has freed it. */
    if (!client->failed)
        PEER(AsyncFree)(client->context);
    event_base_free(client->base);
    free(client);
}

static void *prepare(const struct job *job, enum operation operation)
{
    (void)job, (void)operation;
    return NULL;
}

static void discard(void *prepared)
{
    (void)prepared;
}

static void submit(struct client *client, size_t slot);

static void answered(PEER(AsyncContext) *context, void *opaque, void *slot_number)
{
    struct client *client = context->data;
    const PEER(Reply) *reply = opaque;
    size_t slot = (size_t)slot_number;
    if (reply == NULL) {
        client->failed = true;
        client->outstanding--;
    } else {
        bool is_value = reply->type == PEER_CODE(REPLY_STRING);
        in_flight_end(client->in_flight, slot, is_value ? (long)reply->len : BENCH_FAILED);
        client->outstanding--;
        if (in_flight_start(client->in_flight, slot))
            submit(client, slot);
    }
    if (client->outstanding == 0)
        event_base_loopbreak(client->base);
}

static void submit(struct client *client, size_t slot)
{
    const char *pointers[] = {"GET", client->job->keys[slot].data};
    const size_t lengths[] = {3, client->job->keys[slot].len};
    client->outstanding++;
    PEER(AsyncCommandArgv)(client->context, answered, (void *)slot, 2, pointers, lengths);
}

static long keep_in_flight(void *opaque, const struct job *job, struct in_flight *in_flight)
{
    struct client *client = opaque;
    if (client->failed)
        return BENCH_FAILED;
    client->job = job;
    client->in_flight = in_flight;
    for (size_t slot = 0; slot < job->count && in_flight_start(in_flight, slot); slot++)
        submit(client, slot);
    if (client->outstanding > 0)
        event_base_dispatch(client->base);
    return client->failed ? BENCH_FAILED : 0;
}

const struct driver bench_driver = {
    .version = PEER_VERSION ", libevent " LIBEVENT_VERSION,
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .keep_in_flight = keep_in_flight,
};
