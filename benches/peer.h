/* The driver for hiredis's and for libvalkey's synchronous calls: CommandArgv, and AppendCommandArgv for several in
 * flight. A connection for each thread. The two differ in nothing but names, which peer_hiredis.h and peer_libvalkey.h
 * have. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>

struct arguments {
    int count;
    const char **pointers;
    size_t *lengths;
};

/* With TLS it is a driver of its own, so that the plain one does not load OpenSSL. */
#ifdef BENCH_WITH_TLS
static const bool only_secure = true;
#else
static const bool only_secure = false;
#endif

static bool secure(PEER(Context) *context, const struct target *target)
{
#ifdef BENCH_WITH_TLS
    PEER_TLS(, ContextError) error;
    PEER(InitOpenSSL)();
    PEER_TLS(, Context) *tls = PEER_TLS(Create, Context)(target->ca_file, NULL, NULL, NULL, "localhost", &error);
    /* Never freed: the connection goes on using it, and there is one for each connection of a cell. */
    return tls != NULL && PEER_TLS(Initiate, WithContext)(context, tls) == PEER_CODE(OK);
#else
    (void)context;
    (void)target;
    return false;
#endif
}

static void *open_client(const struct target *target, const char **why)
{
    PEER(Context) *context = NULL;
    if (target->transport == BENCH_UNIX && !only_secure)
        context = PEER(ConnectUnix)(target->unix_path);
    else if (target->transport == (only_secure ? BENCH_TLS : BENCH_TCP))
        context = PEER(Connect)("127.0.0.1", target->port);
    if (context == NULL)
        return NULL;
    if (context->err || (target->transport == BENCH_TLS && !secure(context, target))) {
        *why = "cannot connect";
        PEER(Free)(context);
        return NULL;
    }
    return context;
}

static void close_client(void *client)
{
    PEER(Free)(client);
}

static void append(struct arguments *into, const char *data, size_t len)
{
    into->pointers[into->count] = data;
    into->lengths[into->count++] = len;
}

static void *prepare(const struct job *job, enum operation operation)
{
    struct arguments *batch = malloc(sizeof *batch);
    batch->count = 0;
    batch->pointers = malloc((2 * job->count + 1) * sizeof *batch->pointers);
    batch->lengths = malloc((2 * job->count + 1) * sizeof *batch->lengths);
    append(batch, operation == BENCH_MSET ? "MSET" : "MGET", 4);
    for (size_t i = 0; i < job->count; i++) {
        append(batch, job->keys[i].data, job->keys[i].len);
        if (operation == BENCH_MSET)
            append(batch, job->values[i].data, job->values[i].len);
    }
    return batch;
}

static void discard(void *prepared)
{
    struct arguments *batch = prepared;
    free(batch->pointers);
    free(batch->lengths);
    free(batch);
}

static long received_from(PEER(Reply) *reply)
{
    long received = BENCH_FAILED;
    if (reply != NULL && reply->type == PEER_CODE(REPLY_STRING))
        received = (long)reply->len;
    else if (reply != NULL && reply->type == PEER_CODE(REPLY_NIL))
        received = BENCH_MISS;
    else if (reply != NULL && reply->type == PEER_CODE(REPLY_STATUS))
        received = 0;
    else if (reply != NULL && reply->type == PEER_CODE(REPLY_ARRAY)) {
        received = 0;
        for (size_t i = 0; i < reply->elements; i++)
            received += (long)reply->element[i]->len;
    }
    freeReplyObject(reply);
    return received;
}

static long get(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    const char *pointers[] = {"GET", job->keys[0].data};
    const size_t lengths[] = {3, job->keys[0].len};
    return received_from(PEER(CommandArgv)(client, 2, pointers, lengths));
}

static long set(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    char ttl[24];
    const char *pointers[] = {"SET", job->keys[0].data, job->values[0].data, "PX", ttl};
    size_t lengths[] = {3, job->keys[0].len, job->values[0].len, 2, 0};
    if (job->ttl_ms > 0)
        lengths[4] = (size_t)snprintf(ttl, sizeof ttl, "%lld", (long long)job->ttl_ms);
    return received_from(PEER(CommandArgv)(client, job->ttl_ms > 0 ? 5 : 3, pointers, lengths));
}

static long batch(void *client, const struct job *job, void *prepared)
{
    (void)job;
    const struct arguments *arguments = prepared;
    return received_from(PEER(CommandArgv)(client, arguments->count, arguments->pointers, arguments->lengths));
}

static long pipeline(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    for (size_t i = 0; i < job->count; i++) {
        const char *pointers[] = {"GET", job->keys[i].data};
        const size_t lengths[] = {3, job->keys[i].len};
        PEER(AppendCommandArgv)(client, 2, pointers, lengths);
    }
    long received = 0;
    for (size_t i = 0; i < job->count; i++) {
        void *reply = NULL;
        if (PEER(GetReply)(client, &reply) != PEER_CODE(OK))
            return BENCH_FAILED;
        received += received_from(reply);
    }
    return received;
}

const struct driver bench_driver = {
    .version = PEER_VERSION,
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .get = get,
    .set = set,
    .mget = batch,
    .mset = batch,
    .pipeline = pipeline,
};
