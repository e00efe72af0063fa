/* The driver for hiredis's and for libvalkey's asynchronous calls, on libevent: their interfaces differ in nothing but names. Who
 * includes it defines peer_context, peer_reply and the peer's functions, PEER_STRING and PEER_VERSION. */
#include "driver.h"
#include "libevent.h"

struct client {
    struct event_base *base;
    peer_context *context;
    const struct job *job;
    struct flight *flight;
    size_t flying;
    bool failed;
};

static void readable(evutil_socket_t fd, short what, void *context)
{
    (void)fd, (void)what;
    peer_handle_read(context);
}

static void writable(evutil_socket_t fd, short what, void *context)
{
    (void)fd, (void)what;
    peer_handle_write(context);
}

static void *open_client(const struct target *target, const char **why)
{
    peer_context *context = NULL;
    if (target->transport == BENCH_UNIX)
        context = peer_connect_unix(target->unix_path);
    else if (target->transport == BENCH_TCP)
        context = peer_connect("127.0.0.1", target->port);
    if (context == NULL)
        return NULL;
    if (context->err) {
        *why = "cannot connect";
        peer_free(context);
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
        peer_free(client->context);
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

static void submit(struct client *client, size_t place);

static void answered(peer_context *context, void *opaque, void *place_number)
{
    struct client *client = context->data;
    const peer_reply *reply = opaque;
    size_t place = (size_t)place_number;
    if (reply == NULL) {
        client->failed = true;
        client->flying--;
    } else {
        flight_end(client->flight, place, reply->type == PEER_STRING ? (long)reply->len : BENCH_FAILED);
        client->flying--;
        if (flight_start(client->flight, place))
            submit(client, place);
    }
    if (client->flying == 0)
        event_base_loopbreak(client->base);
}

static void submit(struct client *client, size_t place)
{
    const char *pointers[] = {"GET", client->job->keys[place].data};
    const size_t lengths[] = {3, client->job->keys[place].len};
    client->flying++;
    peer_command(client->context, answered, (void *)place, 2, pointers, lengths);
}

static long fly(void *opaque, const struct job *job, struct flight *flight)
{
    struct client *client = opaque;
    if (client->failed)
        return BENCH_FAILED;
    client->job = job;
    client->flight = flight;
    for (size_t place = 0; place < job->count && flight_start(flight, place); place++)
        submit(client, place);
    if (client->flying > 0)
        event_base_dispatch(client->base);
    return client->failed ? BENCH_FAILED : 0;
}

const struct driver bench_driver = {
    .version = PEER_VERSION ", libevent " LIBEVENT_VERSION,
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .fly = fly,
};
