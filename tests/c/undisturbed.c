/* undisturbed errno URL...: whatever comes of a call on these caches, `errno` is what it was.
   undisturbed pending URL...: a thread that is to be cancelled is not, in any function, and is afterwards.
   undisturbed blocked deferred|asynchronous: the same of threads that wait for a server that is silent, or takes
   nothing in; and the process lives. */
#define _GNU_SOURCE

#include "check_async.h"
#include "processes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { MARK = 4711, LARGE = 4 << 20, HUGE_VALUE_LEN = 64 << 20 };

static char *large;

/* Nothing is expected of what it calls but that it returns. */
struct call {
    const char *name;
    void (*call)(cachetory_t cache, cachetory_queue_t queue, const char *url);
};

static void call_open(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_t other;
    (void)cache, (void)queue;
    if (cachetory_open_url(url, &other, NULL) == CACHETORY_OK) {
        cachetory_ping(other, NULL);
        cachetory_close(other);
    }
    CHECK(cachetory_open_url("nothing://", &other, NULL) == CACHETORY_ERR_INVALID_URL);
}

static void call_ping(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    (void)queue, (void)url;
    cachetory_ping(cache, NULL);
}

static void call_get(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_value_t value;
    (void)queue, (void)url;
    CHECK(cachetory_get(cache, "k", 1, &value, NULL) != CACHETORY_ERR_INTERNAL);
    cachetory_value_free(&value);
}

static void call_mget(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_bytes_t keys[2] = {{"k", 1}, {"large", 5}};
    cachetory_values_t values;
    (void)queue, (void)url;
    CHECK(cachetory_mget(cache, keys, 2, &values, NULL) != CACHETORY_ERR_INTERNAL);
    cachetory_values_free(&values);
}

static void call_set(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    (void)queue, (void)url;
    cachetory_set(cache, "k", 1, "v", 1, 60000, 0, NULL);
    CHECK(cachetory_set(cache, "k", 1, "v", 1, 0, 0, NULL) == CACHETORY_ERR_INVALID_ARGUMENT);
}

static void call_set_large(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    (void)queue, (void)url;
    CHECK(cachetory_set(cache, "large", 5, large, LARGE, CACHETORY_NO_EXPIRY, 0, NULL) != CACHETORY_ERR_INTERNAL);
}

static void call_others(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_bytes_t keys[2] = {{"k", 1}, {"m", 1}};
    cachetory_item_t items[2] = {{{"k", 1}, {"v", 1}}, {{"m", 1}, {"v", 1}}};
    uint64_t deleted;
    (void)queue, (void)url;
    cachetory_mset(cache, items, 2, 60000, 0, NULL);
    cachetory_expire_in(cache, "k", 1, 5, NULL);
    cachetory_expire_at(cache, "k", 1, 5, NULL);
    cachetory_delete(cache, "k", 1, NULL);
    cachetory_mdelete(cache, keys, 2, &deleted, NULL);
    cachetory_clear(cache, NULL);
    CHECK(cachetory_status_name(CACHETORY_OK) && cachetory_version());
}

static void free_all(cachetory_completion_t *completions, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cachetory_completion_free(&completions[i]);
}

static void call_async(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_completion_t completions[4];
    size_t count;
    (void)url;
    cachetory_get_async(cache, queue, 1, "k", 1, NULL);
    cachetory_set_async(cache, queue, 2, "large", 5, large, LARGE, CACHETORY_NO_EXPIRY, 0, NULL);
    cachetory_ping_async(cache, queue, 3, NULL);
    cachetory_queue_wait(queue, completions, 4, 50, &count, NULL);
    free_all(completions, count);
    CHECK(cachetory_queue_fd(queue) > 2);
    cachetory_get_async(cache, queue, 4, "k", 1, NULL);
    cachetory_queue_wait(queue, completions, 4, 0, &count, NULL);
    free_all(completions, count);
    for (uint64_t tag = 1; tag < 5; tag++)
        cachetory_queue_cancel(queue, tag, NULL);
}

static void call_queue(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_queue_t other;
    (void)queue, (void)url;
    if (cachetory_queue_open(&other, NULL) != CACHETORY_OK)
        return;
    cachetory_queue_fd(other);
    cachetory_get_async(cache, other, 1, "k", 1, NULL);
    cachetory_queue_close(other);
    CHECK(cachetory_queue_fd(other) == -1);
}

static const struct call CALLS[] = {
    {"open", call_open},       {"ping", call_ping},     {"get", call_get},     {"mget", call_mget},   {"set", call_set},
    {"large", call_set_large}, {"others", call_others}, {"async", call_async}, {"queue", call_queue}, {NULL, NULL},
};

static void each_keeps_errno(const char *url)
{
    cachetory_t cache;
    cachetory_queue_t queue;
    errno = MARK;
    CHECK(cachetory_open_url(url, &cache, NULL) == CACHETORY_OK && errno == MARK);
    CHECK(cachetory_queue_open(&queue, NULL) == CACHETORY_OK && errno == MARK);
    for (const struct call *each = CALLS; each->name; each++)
        for (int i = 0; i < 3; i++) {
            errno = MARK;
            each->call(cache, queue, url);
            if (errno != MARK)
                fprintf(stderr, "%s on %s: errno is %d\n", each->name, url, errno);
            CHECK(errno == MARK);
        }
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && errno == MARK);
    CHECK(cachetory_close(cache) == CACHETORY_OK && errno == MARK);
}

/* The same where no descriptor is to be had. */
static void each_keeps_errno_without_descriptors(const char *url)
{
    int taken[4096], count = 0;
    cachetory_t cache = open_cache(url);
    cachetory_queue_t queue = open_queue();
    CHECK(cachetory_queue_fd(queue) > 2);
    while (count < 4096 && (taken[count] = open("/dev/null", O_RDONLY)) >= 0)
        count++;
    for (const struct call *each = CALLS; each->name; each++) {
        errno = MARK;
        each->call(cache, queue, url);
        CHECK(errno == MARK);
    }
    while (count > 0)
        close(taken[--count]);
    CHECK(cachetory_close(cache) == CACHETORY_OK && cachetory_queue_close(queue) == CACHETORY_OK);
}

/* And where there is no memory. */
static void a_huge_value_keeps_errno(void)
{
    struct rlimit before, none;
    cachetory_t cache = open_cache("memory://");
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    none = before;
    none.rlim_cur = 1;
    char *huge = calloc(1, HUGE_VALUE_LEN);
    CHECK(huge != NULL);
    CHECK(setrlimit(RLIMIT_AS, &none) == 0);
    errno = MARK;
    CHECK(cachetory_set(cache, "k", 1, huge, HUGE_VALUE_LEN, CACHETORY_NO_EXPIRY, 0, NULL) == CACHETORY_ERR_NO_MEMORY);
    CHECK(errno == MARK);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0 && cachetory_close(cache) == CACHETORY_OK);
    free(huge);
}

static struct {
    const struct call *each;
    cachetory_t cache;
    cachetory_queue_t queue;
    const char *url;
    int type;
    atomic_int ready, cancelled, returned;
} run;

static void *to_be_cancelled(void *unused)
{
    int state;
    (void)unused;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    atomic_store(&run.ready, 1);
    while (!atomic_load(&run.cancelled))
        sched_yield();
    /* From here on the first cancellation point ends the thread. */
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
    CHECK(state == PTHREAD_CANCEL_DISABLE);
    run.each->call(run.cache, run.queue, run.url);
    atomic_store(&run.returned, 1);
    while (pause())
        ;
    return NULL;
}

static void each_leaves_what_is_pending(const char *url)
{
    run.url = url;
    run.cache = open_cache(url);
    run.queue = open_queue();
    for (run.each = CALLS; run.each->name; run.each++)
        for (int i = 0; i < 2; i++) {
            pthread_t thread;
            void *result;
            run.ready = run.cancelled = run.returned = 0;
            CHECK(pthread_create(&thread, NULL, to_be_cancelled, NULL) == 0);
            while (!atomic_load(&run.ready))
                sched_yield();
            CHECK(pthread_cancel(thread) == 0);
            atomic_store(&run.cancelled, 1);
            CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
            CHECK(atomic_load(&run.returned));
        }
    CHECK(cachetory_close(run.cache) == CACHETORY_OK && cachetory_queue_close(run.queue) == CACHETORY_OK);
}

static void wait_on_queue(cachetory_t cache, cachetory_queue_t queue, const char *url)
{
    cachetory_completion_t completion;
    size_t count;
    (void)url;
    CHECK(cachetory_get_async(cache, queue, 1, "k", 1, NULL) == CACHETORY_OK);
    CHECK(cachetory_queue_wait(queue, &completion, 1, CACHETORY_NO_EXPIRY, &count, NULL) == CACHETORY_OK);
    cachetory_completion_free(&completion);
}

static const struct call BLOCKING[] = {
    {"get", call_get}, {"mget", call_mget}, {"ping", call_ping}, {"set", call_set}, {"large", call_set_large},
    {"wait", wait_on_queue}, {NULL, NULL},
};

static void *blocks(void *unused)
{
    int state, type;
    (void)unused;
    pthread_setcanceltype(run.type, NULL);
    run.each->call(run.cache, run.queue, run.url);
    atomic_store(&run.returned, 1);
    /* Never with the other type: leaving the call is the end there. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    CHECK(state == PTHREAD_CANCEL_ENABLE && type == run.type);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    while (pause())
        ;
    return NULL;
}

/* Cancels a thread whose request has arrived, at a server that says nothing to it. */
static void each_that_blocks_ends_as_ever(int type)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    char url[128], bytes[64];
    int server = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(server, (struct sockaddr *)&address, sizeof address) == 0 && listen(server, 16) == 0);
    CHECK(getsockname(server, (struct sockaddr *)&address, &len) == 0);
    /* Nobody but the call connects: a server that was silent is not asked afresh. */
    const char *format = "redis://127.0.0.1:%d?socket_timeout=0.3&fail_fast=false";
    snprintf(url, sizeof url, format, ntohs(address.sin_port));
    run.type = type;
    for (run.each = BLOCKING; run.each->name; run.each++) {
        pthread_t thread;
        void *result;
        run.cache = open_cache(url);
        run.queue = open_queue();
        run.returned = 0;
        CHECK(pthread_create(&thread, NULL, blocks, NULL) == 0);
        int link = accept(server, NULL, NULL);
        CHECK(link >= 0 && recv(link, bytes, sizeof bytes, MSG_PEEK) > 0);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        CHECK(type == PTHREAD_CANCEL_ASYNCHRONOUS || atomic_load(&run.returned));
        close(link);
        CHECK(cachetory_close(run.cache) == CACHETORY_OK && cachetory_queue_close(run.queue) == CACHETORY_OK);
    }
    close(server);
}

int main(int argc, char **argv)
{
    CHECK(argc > 2);
    alarm(GUARD_SECONDS);
    large = calloc(1, LARGE);
    CHECK(large != NULL);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[1], "errno") == 0) {
            each_keeps_errno(argv[i]);
            each_keeps_errno_without_descriptors(argv[i]);
            a_huge_value_keeps_errno();
        } else if (strcmp(argv[1], "pending") == 0) {
            each_leaves_what_is_pending(argv[i]);
        } else {
            int is_deferred = strcmp(argv[i], "deferred") == 0;
            each_that_blocks_ends_as_ever(is_deferred ? PTHREAD_CANCEL_DEFERRED : PTHREAD_CANCEL_ASYNCHRONOUS);
        }
    }
    free(large);
    return 0;
}
