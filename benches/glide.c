/*
 * Valkey GLIDE's native library, as its synchronous Python client calls it. One client for all threads. It comes
 * without a header, so what is called is declared here. It has other means for TLS's authorities, and is left out
 * there.
 */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST_GET = 1504, REQUEST_MGET = 1513, REQUEST_MSET = 1514, REQUEST_SET = 1517 };
enum { RESPONSE_NULL = 0, RESPONSE_STRING = 4, RESPONSE_ARRAY = 5, RESPONSE_OK = 8 };
enum { SYNC_CLIENT = 1 };

struct response {
    int type;
    long int_value;
    double float_value;
    bool bool_value;
    char *string_value;
    long string_value_len;
    struct response *array_value;
    long array_value_len;
    struct response *map_key;
    struct response *map_value;
    struct response *sets_value;
    long sets_value_len;
    void *user_data;
};

struct command_error {
    const char *message;
    int type;
};

struct result {
    struct response *response;
    struct command_error *error;
    void *arena;
};

struct client_type {
    int type;
    struct {
        void (*success)(uintptr_t, const struct response *);
        void (*failure)(uintptr_t, const char *, int);
        bool allow_stack_response;
    } async_client;
};

struct connection {
    const void *client;
    const char *error_message;
    int error_type;
};

typedef void pubsub_callback(uintptr_t, int, const uint8_t *, int64_t, const uint8_t *, int64_t, const uint8_t *,
                             int64_t);
typedef uint16_t resolver_callback(uintptr_t, const uint8_t *, size_t, uint16_t, uint8_t *, size_t, size_t *);

const struct connection *create_client(const uint8_t *request, size_t len, const struct client_type *type,
                                       pubsub_callback *pubsub, resolver_callback *resolver, uintptr_t client_id);
void free_connection_response(const struct connection *connection);
void close_client(const void *client);
struct result *command(const void *client, uintptr_t channel, int request, unsigned long count, const size_t *pointers,
                       const unsigned long *lengths, const uint8_t *route, size_t route_len, uint64_t span);
void free_command_result(struct result *result);

struct arguments {
    unsigned long count;
    size_t *pointers;
    unsigned long *lengths;
};

static void ignore(uintptr_t client, int kind, const uint8_t *message, int64_t message_len, const uint8_t *channel,
                   int64_t channel_len, const uint8_t *pattern, int64_t pattern_len)
{
    (void)client, (void)kind, (void)message, (void)message_len;
    (void)channel, (void)channel_len, (void)pattern, (void)pattern_len;
}

static size_t varint(uint8_t *out, unsigned value)
{
    size_t len = 0;
    for (; value >= 0x80; value >>= 7)
        out[len++] = (uint8_t)(value | 0x80);
    out[len++] = (uint8_t)value;
    return len;
}

static size_t text_field(uint8_t *out, unsigned number, const char *text)
{
    size_t len = varint(out, number << 3 | 2);
    len += varint(out + len, (unsigned)strlen(text));
    memcpy(out + len, text, strlen(text));
    return len + strlen(text);
}

/* A protobuf ConnectionRequest with one address in its field 1: host (1), port (2), or the path of a socket (3). */
static size_t connection_request(uint8_t *out, const struct target *target)
{
    uint8_t address[256];
    size_t len;
    if (target->transport == BENCH_TCP) {
        len = text_field(address, 1, "127.0.0.1");
        address[len++] = 2 << 3 | 0;
        len += varint(address + len, (unsigned)target->port);
    } else {
        len = text_field(address, 3, target->unix_path);
    }
    size_t head = 0;
    out[head++] = 1 << 3 | 2;
    head += varint(out + head, (unsigned)len);
    memcpy(out + head, address, len);
    head += len;
    /* Its default of 250 ms for a request is too little for the largest batches on a busy machine: field 4, 5000 ms. */
    out[head++] = 4 << 3 | 0;
    return head + varint(out + head, 5000);
}

static void *open_client(const struct target *target, const char **why)
{
    static char text[256];
    if (target->transport > BENCH_TCP)
        return NULL;
    uint8_t request[512];
    struct client_type type = {.type = SYNC_CLIENT};
    const struct connection *made =
        create_client(request, connection_request(request, target), &type, ignore, NULL, 0);
    if (made == NULL)
        return NULL;
    void *client = (void *)(uintptr_t)made->client;
    if (client == NULL) {
        snprintf(text, sizeof text, "%s", made->error_message);
        *why = text;
    }
    free_connection_response(made);
    return client;
}

static void end(void *client)
{
    close_client(client);
}

static void append(struct arguments *into, const char *data, size_t len)
{
    into->pointers[into->count] = (size_t)data;
    into->lengths[into->count++] = len;
}

static void *prepare(const struct job *job, enum operation operation)
{
    struct arguments *batch = malloc(sizeof *batch);
    batch->count = 0;
    batch->pointers = malloc(2 * job->count * sizeof *batch->pointers);
    batch->lengths = malloc(2 * job->count * sizeof *batch->lengths);
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

static long received_from(struct result *result)
{
    long received = BENCH_FAILED;
    if (result == NULL)
        return received;
    const struct response *response = result->response;
    if (result->error != NULL) {
        fprintf(stderr, "glide: %s\n", result->error->message);
    } else if (response == NULL || response->type == RESPONSE_NULL) {
        received = BENCH_MISS;
    } else if (response->type == RESPONSE_STRING) {
        received = response->string_value_len;
    } else if (response->type == RESPONSE_OK) {
        received = 0;
    } else if (response->type == RESPONSE_ARRAY) {
        received = 0;
        for (long i = 0; i < response->array_value_len; i++)
            received += response->array_value[i].string_value_len;
    }
    free_command_result(result);
    return received;
}

static long get(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    size_t pointer = (size_t)job->keys[0].data;
    unsigned long len = job->keys[0].len;
    return received_from(command(client, 0, REQUEST_GET, 1, &pointer, &len, NULL, 0, 0));
}

static long set(void *client, const struct job *job, void *prepared)
{
    (void)prepared;
    char ttl[24];
    size_t pointers[] = {(size_t)job->keys[0].data, (size_t)job->values[0].data, (size_t)"PX", (size_t)ttl};
    unsigned long lengths[] = {job->keys[0].len, job->values[0].len, 2, 0};
    if (job->ttl_ms > 0)
        lengths[3] = (unsigned long)snprintf(ttl, sizeof ttl, "%lld", (long long)job->ttl_ms);
    return received_from(command(client, 0, REQUEST_SET, job->ttl_ms > 0 ? 4 : 2, pointers, lengths, NULL, 0, 0));
}

static long mget(void *client, const struct job *job, void *prepared)
{
    (void)job;
    const struct arguments *batch = prepared;
    return received_from(command(client, 0, REQUEST_MGET, batch->count, batch->pointers, batch->lengths, NULL, 0, 0));
}

static long mset(void *client, const struct job *job, void *prepared)
{
    (void)job;
    const struct arguments *batch = prepared;
    return received_from(command(client, 0, REQUEST_MSET, batch->count, batch->pointers, batch->lengths, NULL, 0, 0));
}

const struct driver bench_driver = {
    .version = "valkey-glide " BENCH_GLIDE_VERSION,
    .shared = true,
    .open = open_client,
    .close = end,
    .prepare = prepare,
    .discard = discard,
    .get = get,
    .set = set,
    .mget = mget,
    .mset = mset,
};
