/* The redis crate's synchronous connection, through redis-shim. A connection for each thread. */
#include "driver.h"

#include <stdio.h>

void *shim_open(const char *url);
void shim_close(void *connection);
long shim_get(void *connection, struct bytes key);
long shim_set(void *connection, struct bytes key, struct bytes value, int64_t ttl_ms);
long shim_mget(void *connection, const struct bytes *keys, size_t count);
long shim_mset(void *connection, const struct bytes *keys, const struct bytes *values, size_t count);
long shim_pipeline(void *connection, const struct bytes *keys, size_t count);

static void *open_client(const struct target *target, const char **why)
{
    char url[512];
    if (target->transport > BENCH_TCP)
        return NULL;
    if (target->transport == BENCH_UNIX)
        snprintf(url, sizeof url, "redis+unix://%s", target->unix_path);
    else
        snprintf(url, sizeof url, "redis://127.0.0.1:%d", target->port);
    *why = "cannot connect";
    return shim_open(url);
}

static void *prepare(const struct job *job, enum operation operation)
{
    (void)job;
    (void)operation;
    return NULL;
}

static void discard(void *prepared)
{
    (void)prepared;
}

static long get(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    return shim_get(client, job->keys[0]);
}

static long set(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    return shim_set(client, job->keys[0], job->values[0], job->ttl_ms);
}

static long mget(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    return shim_mget(client, job->keys, job->count);
}

static long mset(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    return shim_mset(client, job->keys, job->values, job->count);
}

static long pipeline(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    return shim_pipeline(client, job->keys, job->count);
}

const struct driver bench_driver = {
    .version = "redis crate " BENCH_REDIS_CRATE_VERSION,
    .open = open_client,
    .close = shim_close,
    .prepare = prepare,
    .discard = discard,
    .get = get,
    .set = set,
    .mget = mget,
    .mset = mset,
    .pipeline = pipeline,
};
