/*
 * No library: the request is packed beforehand, written, and as many bytes are read as the reply is known to have.
 * Nothing is parsed and nothing is copied out. The limit of what a client that sleeps for its reply can reach with one
 * request at a time.
 */
#define _GNU_SOURCE
#include "driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct exchange {
    char *request;
    size_t request_len;
    size_t reply_len;
    long received;
};

struct client {
    int fd;
    char *buffer;
    size_t size;
};

static int dial(const struct target *target)
{
    if (target->transport == BENCH_UNIX) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s", target->unix_path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : -1;
}

static void *open_client(const struct target *target, const char **why)
{
    if (target->transport > BENCH_TCP)
        return NULL;
    struct client *client = malloc(sizeof *client);
    client->fd = dial(target);
    client->size = 128 * 1024;
    client->buffer = malloc(client->size);
    if (client->fd < 0)
        *why = strerror(errno);
    return client->fd < 0 ? NULL : client;
}

static void close_client(void *opaque)
{
    struct client *client = opaque;
    close(client->fd);
    free(client->buffer);
    free(client);
}

static void argument(FILE *out, const char *data, size_t len)
{
    fprintf(out, "$%zu\r\n", len);
    fwrite(data, 1, len, out);
    fputs("\r\n", out);
}

static size_t bulk_len(size_t len)
{
    return (size_t)snprintf(NULL, 0, "$%zu\r\n", len) + len + 2;
}

static long exchange(void *opaque, const struct job *job, void *prepared)
{
    (void)job;
    struct client *client = opaque;
    const struct exchange *it = prepared;
    for (size_t sent = 0; sent < it->request_len;) {
        ssize_t n = send(client->fd, it->request + sent, it->request_len - sent, MSG_NOSIGNAL);
        if (n <= 0)
            return BENCH_FAILED;
        sent += (size_t)n;
    }
    char first = 0;
    for (size_t got = 0; got < it->reply_len;) {
        ssize_t n = recv(client->fd, client->buffer, client->size, 0);
        if (n <= 0)
            return BENCH_FAILED;
        if (got == 0)
            first = client->buffer[0];
        got += (size_t)n;
    }
    return first == '-' ? BENCH_FAILED : it->received;
}

static void pack_get(FILE *out, struct exchange *it, const struct job *job, size_t i)
{
    fputs("*2\r\n", out);
    argument(out, "GET", 3);
    argument(out, job->keys[i].data, job->keys[i].len);
    it->reply_len += job->present ? bulk_len(job->values[i].len) : strlen("$-1\r\n");
    it->received += job->present ? (long)job->values[i].len : BENCH_MISS;
}

static void pack_set(FILE *out, struct exchange *it, const struct job *job)
{
    fprintf(out, "*%d\r\n", job->ttl_ms > 0 ? 5 : 3);
    argument(out, "SET", 3);
    argument(out, job->keys[0].data, job->keys[0].len);
    argument(out, job->values[0].data, job->values[0].len);
    if (job->ttl_ms > 0) {
        char ttl[24];
        argument(out, "PX", 2);
        argument(out, ttl, (size_t)snprintf(ttl, sizeof ttl, "%lld", (long long)job->ttl_ms));
    }
    it->reply_len = strlen("+OK\r\n");
}

static void pack_batch(FILE *out, struct exchange *it, const struct job *job, bool write)
{
    fprintf(out, "*%zu\r\n", 1 + job->count * (write ? 2 : 1));
    argument(out, write ? "MSET" : "MGET", 4);
    it->reply_len = write ? strlen("+OK\r\n") : (size_t)snprintf(NULL, 0, "*%zu\r\n", job->count);
    for (size_t i = 0; i < job->count; i++) {
        argument(out, job->keys[i].data, job->keys[i].len);
        if (write) {
            argument(out, job->values[i].data, job->values[i].len);
        } else {
            it->reply_len += bulk_len(job->values[i].len);
            it->received += (long)job->values[i].len;
        }
    }
}

static void *prepare(const struct job *job, enum operation operation)
{
    struct exchange *it = calloc(1, sizeof *it);
    FILE *out = open_memstream(&it->request, &it->request_len);
    if (operation == BENCH_SET)
        pack_set(out, it, job);
    else if (operation == BENCH_MGET || operation == BENCH_MSET)
        pack_batch(out, it, job, operation == BENCH_MSET);
    else
        for (size_t i = 0; i < job->count; i++)
            pack_get(out, it, job, i);
    fclose(out);
    return it;
}

static void discard(void *prepared)
{
    free(((struct exchange *)prepared)->request);
    free(prepared);
}

const struct driver bench_driver = {
    .version = "a socket and nothing else",
    .open = open_client,
    .close = close_client,
    .prepare = prepare,
    .discard = discard,
    .get = exchange,
    .set = exchange,
    .mget = exchange,
    .mset = exchange,
    .pipeline = exchange,
};
