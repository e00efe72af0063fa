/* The redis crate's multiplexed connection on tokio, through redis-shim. */
#include "driver.h"

#include <stdio.h>

typedef bool start_in_flight(void *in_flight, size_t slot);
typedef void end_in_flight(void *in_flight, size_t slot, long received);

void *shim_multiplexed_open(const char *url);
void shim_multiplexed_close(void *client);
void shim_multiplexed_keep_in_flight(void *client, const struct bytes *keys, size_t count, void *in_flight,
                                     start_in_flight *start, end_in_flight *end);

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
    return shim_multiplexed_open(url);
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

static bool start(void *in_flight, size_t slot)
{
    return in_flight_start(in_flight, slot);
}

static void end(void *in_flight, size_t slot, long received)
{
    in_flight_end(in_flight, slot, received);
}

static long keep_in_flight(void *client, const struct job *job, struct in_flight *in_flight)
{
    shim_multiplexed_keep_in_flight(client, job->keys, job->count, in_flight, start, end);
    return 0;
}

const struct driver bench_driver = {
    .version = "redis crate " BENCH_REDIS_CRATE_VERSION ", tokio",
    .open = open_client,
    .close = shim_multiplexed_close,
    .prepare = prepare,
    .discard = discard,
    .keep_in_flight = keep_in_flight,
};
