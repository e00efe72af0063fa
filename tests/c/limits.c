/* limits WHAT URL: a process without another descriptor, with a link and without one, and one without more memory. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST = 64, LARGE = 300 << 20, THREADS = 8, ROUNDS = 50, MEDIUM = 100000, CALLS = 100 };

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

static void *use(void *arg)
{
    cachetory_t cache = *(cachetory_t *)arg;
    cachetory_error_t error;
    char *value = malloc(MEDIUM);
    CHECK(value != NULL);
    memset(value, 'v', MEDIUM);
    for (int i = 0; i < ROUNDS; i++) {
        round_trip(cache, "k");
        EXPECT(cachetory_set(cache, "m", 1, value, MEDIUM, CACHETORY_NO_EXPIRY, 0, &error), CACHETORY_OK, &error);
        EXPECT(cachetory_ping(cache, &error), CACHETORY_OK, &error);
    }
    free(value);
    return NULL;
}

/* Small calls and large ones. With a descriptor it is polled, and otherwise waited on. */
static void submit_and_take(cachetory_t cache, cachetory_queue_t queue, int fd)
{
    static char value[MEDIUM];
    cachetory_error_t error;
    for (int i = 0; i < CALLS; i++) {
        submit_get(cache, queue, 1, "k");
        EXPECT(cachetory_set_async(cache, queue, 2, "m", 1, value, MEDIUM, CACHETORY_NO_EXPIRY, 0, &error),
               CACHETORY_OK, &error);
    }
    for (int left = 2 * CALLS; left > 0;) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        cachetory_completion_t completion;
        size_t count;
        if (fd >= 0)
            CHECK(poll(&readable, 1, WAIT_MS) == 1);
        EXPECT(cachetory_queue_wait(queue, &completion, 1, fd >= 0 ? 0 : WAIT_MS, &count, &error), CACHETORY_OK,
               &error);
        if (count == 0)
            continue;
        left--;
        if (completion.status < 0)
            fprintf(stderr, "%s\n", completion.message);
        CHECK(completion.status >= 0);
        cachetory_completion_free(&completion);
    }
}

/* The links that are there serve all, whoever wants one more. */
static void links(const char *url)
{
    int taken[MOST], count = 0;
    pthread_t threads[THREADS];
    cachetory_t cache = open_cache(url);
    cachetory_queue_t waited = open_queue(), polled = open_queue(), second = open_queue();
    submit_get(cache, waited, 0, "k");
    cachetory_completion_t first = next(waited);
    CHECK(first.status >= 0);
    cachetory_completion_free(&first);
    int fd = cachetory_queue_fd(polled), other = cachetory_queue_fd(second);
    CHECK(fd >= 0 && other >= 0);
    limit(RLIMIT_NOFILE, MOST);
    while (count < MOST && (taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, use, &cache) == 0);
    for (int i = 0; i < 3; i++) {
        submit_and_take(cache, waited, -1);
        submit_and_take(cache, polled, fd);
        submit_and_take(cache, second, other);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    while (count > 0)
        close(taken[--count]);
    CHECK(cachetory_queue_close(waited) == CACHETORY_OK && cachetory_queue_close(polled) == CACHETORY_OK);
    CHECK(cachetory_queue_close(second) == CACHETORY_OK && cachetory_close(cache) == CACHETORY_OK);
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
    else if (strcmp(argv[1], "links") == 0)
        links(argv[2]);
    else if (strcmp(argv[1], "pieces") == 0)
        pieces(argv[2], (size_t)atol(argv[3]));
    else
        memory(argv[2]);
    return 0;
}
