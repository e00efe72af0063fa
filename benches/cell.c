#define _GNU_SOURCE
#include "cell.h"

#include "fail.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cell parse_cell(const char *text)
{
    struct cell cell;
    if (sscanf(text, "%7s %11s %zu %zu %d %7s", cell.transport, cell.op, &cell.size, &cell.count, &cell.threads,
               cell.place) != 6)
        die("not a cell: %s", text);
    return cell;
}

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    if (value == NULL)
        die("%s is not set", name);
    return value;
}

struct subject load(const char *name)
{
    driver_in_use = name;
    struct subject it = {.name = name, .options = ""};
    const char *mark = strchr(name, '?');
    size_t len = mark ? (size_t)(mark - name) : strlen(name);
    char path[1024];
    if (mark)
        it.options = mark + 1;
    snprintf(path, sizeof path, "%s/%.*s.so", setting("BENCH_DRIVERS"), (int)len, name);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL)
        die("%s", dlerror());
    it.driver = dlsym(object, "bench_driver");
    if (it.driver == NULL)
        die("%s", dlerror());
    return it;
}

struct target target_of(const struct cell *cell, const char *options)
{
    struct target target = {.options = options};
    if (strcmp(cell->transport, "unix") == 0) {
        target.transport = BENCH_UNIX;
        target.unix_path = setting("BENCH_UNIX");
    } else if (strcmp(cell->transport, "tcp") == 0) {
        target.transport = BENCH_TCP;
        target.port = atoi(setting("BENCH_TCP"));
    } else if (strcmp(cell->transport, "far") == 0) {
        target.transport = BENCH_TCP;
        target.port = atoi(setting("BENCH_FAR"));
    } else if (strcmp(cell->transport, "tls") == 0) {
        target.transport = BENCH_TLS;
        target.port = atoi(setting("BENCH_TLS"));
        target.ca_file = setting("BENCH_CA");
    } else if (strcmp(cell->transport, "memory") == 0) {
        target.transport = BENCH_MEMORY;
    } else {
        die("unknown transport %s", cell->transport);
    }
    return target;
}

struct work make_work(const struct cell *cell)
{
    struct work work = {.job = {.count = cell->count, .present = true}};
    const char *op = cell->op;
    struct bytes *keys = malloc(cell->count * sizeof *keys);
    struct bytes *values = malloc(cell->count * sizeof *values);
    char *value = malloc(cell->size + 1);
    long all = (long)(cell->count * cell->size);
    if (strcmp(op, "get") == 0) {
        work.operation = BENCH_GET;
        work.expected = all;
    } else if (strcmp(op, "miss") == 0) {
        work.operation = BENCH_GET;
        work.expected = BENCH_MISS;
        work.job.present = false;
    } else if (strcmp(op, "set") == 0) {
        work.operation = BENCH_SET;
    } else if (strcmp(op, "ttl") == 0) {
        work.operation = BENCH_SET;
        work.job.ttl_ms = 3600 * 1000;
    } else if (strcmp(op, "mget") == 0) {
        work.operation = BENCH_MGET;
        work.expected = all;
    } else if (strcmp(op, "mset") == 0) {
        work.operation = BENCH_MSET;
    } else if (strcmp(op, "pipeline") == 0) {
        work.operation = BENCH_PIPELINE;
        work.expected = (long)cell->size;
    } else {
        die("unknown operation %s", op);
    }
    memset(value, 'v', cell->size + 1);
    for (size_t i = 0; i < cell->count; i++) {
        char *key = NULL;
        int len = asprintf(&key, "%s:%07zu:%07zu", work.job.present ? "bench" : "never", cell->size, i);
        keys[i] = (struct bytes){key, (size_t)len};
        values[i] = (struct bytes){value, cell->size};
    }
    work.job.keys = keys;
    work.job.values = values;
    return work;
}

void discard_work(struct work *work)
{
    free((void *)(uintptr_t)work->job.values[0].data);
    for (size_t i = 0; i < work->job.count; i++)
        free((void *)(uintptr_t)work->job.keys[i].data);
    free((void *)(uintptr_t)work->job.keys);
    free((void *)(uintptr_t)work->job.values);
}

static void write_values(const struct driver *driver, void *client, const struct work *work)
{
    void *prepared = driver->prepare(&work->job, BENCH_MSET);
    if (client == NULL || driver->mset(client, &work->job, prepared) != 0)
        die("the values cannot be written");
    driver->discard(prepared);
}

void fill(const struct driver *driver, void *client, const struct cell *cell, const struct work *work)
{
    if (work->expected < 0)
        return;
    if (strcmp(cell->transport, "memory") == 0) {
        write_values(driver, client, work);
        return;
    }
    const char *name = driver_in_use;
    const char *why = "";
    struct cell over_unix = {.transport = "unix"};
    struct target target = target_of(&over_unix, "");
    struct subject raw = load("raw");
    void *writer = raw.driver->open(&target, &why);
    write_values(raw.driver, writer, work);
    raw.driver->close(writer);
    driver_in_use = name;
}
