/* limits URL: a process without another descriptor, and one without more memory. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST = 64, LARGE = 300 << 20 };

static void limit(int resource, rlim_t soft)
{
    struct rlimit bounds;
    CHECK(getrlimit(resource, &bounds) == 0);
    bounds.rlim_cur = soft < bounds.rlim_max ? soft : bounds.rlim_max;
    CHECK(setrlimit(resource, &bounds) == 0);
}

static void no_memory(cachetory_status_t status, const cachetory_error_t *error, const char *what)
{
    if (status != CACHETORY_ERR_NO_MEMORY || error->flags != CACHETORY_ERROR_RETRYABLE)
        fprintf(stderr, "%s: %s, flags %u: %s\n", what, cachetory_status_name(status), (unsigned)error->flags,
                error->message);
    CHECK(status == CACHETORY_ERR_NO_MEMORY);
    CHECK(error->flags == CACHETORY_ERROR_RETRYABLE);
}

static void descriptors(const char *url)
{
    cachetory_error_t error;
    cachetory_value_t value;
    int taken[MOST], count = 0;
    limit(RLIMIT_NOFILE, MOST);
    while (count < MOST && (taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    cachetory_t cache = open_cache(url);
    for (int i = 0; i < 3; i++) {
        no_memory(cachetory_set(cache, "k", 1, "v", 1, CACHETORY_NO_EXPIRY, 0, &error), &error, "set");
        no_memory(cachetory_get(cache, "k", 1, &value, &error), &error, "get");
        no_memory(cachetory_ping(cache, &error), &error, "ping");
    }
    while (count > 0)
        close(taken[--count]);
    round_trip(cache, "k");
    CHECK(cachetory_close(cache) == CACHETORY_OK);
}

/* How much address space is in use. */
static rlim_t in_use(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void memory(const char *url)
{
    cachetory_error_t error;
    cachetory_value_t value;
    cachetory_values_t values;
    cachetory_bytes_t key = {"large", 5};
    cachetory_t cache = open_cache(url);
    char *large = malloc(LARGE);
    CHECK(large != NULL);
    memset(large, 'v', LARGE);
    EXPECT(cachetory_set(cache, "large", 5, large, LARGE, CACHETORY_NO_EXPIRY, 0, &error), CACHETORY_OK, &error);
    /* What the large write took has been given back by then. */
    round_trip(cache, "k");
    limit(RLIMIT_AS, in_use() + (LARGE >> 1));
    no_memory(cachetory_get(cache, "large", 5, &value, &error), &error, "a large get");
    CHECK(value.data == NULL);
    no_memory(cachetory_mget(cache, &key, 1, &values, &error), &error, "a large mget");
    CHECK(values.items == NULL);
    /* Whether a write needs memory of its own is the library's business; it must not die of it. */
    cachetory_status_t status = cachetory_set(cache, "other", 5, large, LARGE, CACHETORY_NO_EXPIRY, 0, &error);
    CHECK(status == CACHETORY_OK || status == CACHETORY_ERR_NO_MEMORY);
    cachetory_item_t item = {{"other", 5}, {large, LARGE}};
    status = cachetory_mset(cache, &item, 1, 60000, 0, &error);
    CHECK(status == CACHETORY_OK || status == CACHETORY_ERR_NO_MEMORY);
    round_trip(cache, "k");
    limit(RLIMIT_AS, RLIM_INFINITY);
    EXPECT(cachetory_get(cache, "large", 5, &value, &error), CACHETORY_OK, &error);
    CHECK(value.len == LARGE && memcmp(value.data, large, LARGE) == 0);
    cachetory_value_free(&value);
    free(large);
    CHECK(cachetory_close(cache) == CACHETORY_OK);
}

/* Small pieces, one after the other, until there is no more: in the store, and of the heap before a cache is opened. */
static void pieces(const char *url, size_t size)
{
    cachetory_error_t error;
    char key[32], value[16384];
    memset(value, 'v', sizeof value);
    cachetory_t cache = open_cache(url);
    round_trip(cache, "k");
    limit(RLIMIT_AS, in_use() + (64 << 20));
    cachetory_status_t status = CACHETORY_OK;
    int count = 0;
    for (; status == CACHETORY_OK && count < 10000000; count++) {
        snprintf(key, sizeof key, "%d", count);
        status = cachetory_set(cache, key, CACHETORY_STRLEN, value, size, CACHETORY_NO_EXPIRY, 0, &error);
    }
    no_memory(status, &error, "one more piece");
    for (int i = 0; i < 1000; i++) {
        cachetory_t other;
        cachetory_item_t items[2] = {{{"a", 1}, {value, size}}, {{"b", 1}, {value, size}}};
        status = cachetory_mset(cache, items, 2, 60000, 0, &error);
        CHECK(status == CACHETORY_OK || status == CACHETORY_ERR_NO_MEMORY);
        status = cachetory_open_url(url, &other, &error);
        CHECK(status == CACHETORY_OK || status == CACHETORY_ERR_NO_MEMORY);
        if (status == CACHETORY_OK)
            CHECK(cachetory_close(other) == CACHETORY_OK);
    }
    limit(RLIMIT_AS, RLIM_INFINITY);
    round_trip(cache, "k");
    CHECK(cachetory_close(cache) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3 || argc == 4);
    if (strcmp(argv[1], "descriptors") == 0)
        descriptors(argv[2]);
    else if (strcmp(argv[1], "pieces") == 0)
        pieces(argv[2], (size_t)atol(argv[3]));
    else
        memory(argv[2]);
    return 0;
}
