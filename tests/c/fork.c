/* fork FACE family URL ONE: parent, children and grandchildren go on side by side, and queues stay with the process
     that opened them. The names of their keys tell the processes apart.
   fork FACE load URL ONE: forks while other threads are in the middle of calls.
   fork FACE held URL ONE: forks with calls in flight, which are answered once the key "open" was set.
   FACE says how calls are made: synchronous, waited or polled. ONE has one connection. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"
#include "processes.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

enum { ROUNDS = 50, FORKS = 25, THREADS = 4, CALLS = 20 };

static enum { SYNCHRONOUS, WAITED, POLLED } face;

/* A queue for the calls of this thread, in this process. */
static _Thread_local cachetory_queue_t own_queue;
static _Thread_local pid_t owner;

static cachetory_queue_t queue_of_mine(void)
{
    if (owner != getpid()) {
        own_queue = open_queue();
        owner = getpid();
    }
    return own_queue;
}

static void close_queue_of_mine(void)
{
    if (owner == getpid())
        CHECK(cachetory_queue_close(own_queue) == CACHETORY_OK);
    owner = 0;
}

/* The next completion, waited for or, as a loop does, polled for. */
static cachetory_completion_t taken(cachetory_queue_t queue)
{
    struct pollfd readable = {.fd = cachetory_queue_fd(queue), .events = POLLIN};
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count = 0;
    if (face != POLLED)
        return next(queue);
    while (count == 0) {
        CHECK(poll(&readable, 1, WAIT_MS) == 1);
        EXPECT(cachetory_queue_wait(queue, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    }
    return completion;
}

static void expect_taken(cachetory_queue_t queue)
{
    cachetory_completion_t completion = taken(queue);
    CHECK(completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
}

/* Sets a key to its own name and gets it back. */
static void call(cachetory_t cache, const char *key)
{
    if (face == SYNCHRONOUS) {
        round_trip(cache, key);
        return;
    }
    cachetory_queue_t queue = queue_of_mine();
    submit_set(cache, queue, 1, key);
    expect_taken(queue);
    submit_get(cache, queue, 2, key);
    cachetory_completion_t completion = taken(queue);
    CHECK(completion.tag == 2 && completion.status == CACHETORY_OK);
    CHECK(completion.value.len == strlen(key) && memcmp(completion.value.data, key, completion.value.len + 1) == 0);
    cachetory_completion_free(&completion);
}

/* Many calls at once on both caches, where calls are submitted. */
static void call_together(cachetory_t cache, cachetory_t one, const char *key)
{
    if (face == SYNCHRONOUS)
        return;
    cachetory_queue_t queue = queue_of_mine();
    for (int i = 0; i < CALLS; i++) {
        submit_set(cache, queue, (uint64_t)i, key);
        submit_set(one, queue, (uint64_t)i, key);
    }
    for (int i = 0; i < 2 * CALLS; i++)
        expect_taken(queue);
}

static void many_calls(cachetory_t cache, const char *who)
{
    for (int i = 0; i < ROUNDS; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s:%d", who, i);
        call(cache, key);
    }
}

struct family {
    const char *url;
    cachetory_t cache;
    cachetory_t store;
    cachetory_value_t value;
    cachetory_values_t values;
};

static void grandchild(void *arg)
{
    struct family *family = arg;
    many_calls(family->cache, "grandchild");
    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
}

static void child(void *arg)
{
    struct family *family = arg;
    cachetory_error_t error;
    cachetory_value_t value;

    EXPECT(cachetory_get(family->store, "k", 1, &value, &error), CACHETORY_NOT_FOUND, &error);
    call(family->store, "only in the child");

    /* What the parent was given is a copy here, and the child's to free. */
    CHECK(strcmp(family->value.data, "parent:0") == 0);
    cachetory_value_free(&family->value);
    CHECK(strcmp(family->values.items[0].data, "parent:0") == 0);
    cachetory_values_free(&family->values);

    call(family->cache, "child:first");
    pid_t pid = in_child(grandchild, family);
    many_calls(family->cache, "child");
    wait_for(pid);

    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
    CHECK(cachetory_close(family->cache) == CACHETORY_ERR_CLOSED);
    EXPECT(cachetory_ping(family->cache, &error), CACHETORY_ERR_CLOSED, &error);
    cachetory_t another = open_cache(family->url);
    many_calls(another, "child");
    CHECK(cachetory_close(another) == CACHETORY_OK);
    CHECK(cachetory_close(family->store) == CACHETORY_OK);
}

static void side_by_side(const char *url)
{
    struct family family = {.url = url, .cache = open_cache(url), .store = open_cache("memory://")};
    cachetory_error_t error;
    cachetory_bytes_t key = {"parent:0", 8};

    many_calls(family.cache, "parent");
    call(family.store, "k");
    EXPECT(cachetory_get(family.cache, "parent:0", 8, &family.value, &error), CACHETORY_OK, &error);
    EXPECT(cachetory_mget(family.cache, &key, 1, &family.values, &error), CACHETORY_OK, &error);

    pid_t pid = in_child(child, &family);
    many_calls(family.cache, "parent");
    wait_for(pid);
    many_calls(family.cache, "parent");

    cachetory_value_t value;
    EXPECT(cachetory_get(family.store, "k", 1, &value, &error), CACHETORY_OK, &error);
    cachetory_value_free(&value);
    EXPECT(cachetory_get(family.store, "only in the child", CACHETORY_STRLEN, &value, &error),
           CACHETORY_NOT_FOUND, &error);
    cachetory_value_free(&family.value);
    cachetory_values_free(&family.values);
    CHECK(cachetory_close(family.cache) == CACHETORY_OK);
    CHECK(cachetory_close(family.store) == CACHETORY_OK);
}

/* A handle that was opened and never used before the fork, closed in the child first. */
static void child_that_only_closes(void *arg)
{
    struct family *family = arg;
    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
    CHECK(cachetory_close(family->store) == CACHETORY_OK);
}

static void closed_unused(const char *url)
{
    struct family family = {.url = url, .cache = open_cache(url), .store = open_cache("memory://")};
    wait_for(in_child(child_that_only_closes, &family));
    many_calls(family.cache, "parent");
    wait_for(in_child(child_that_only_closes, &family));
    many_calls(family.cache, "parent");
    CHECK(cachetory_close(family.cache) == CACHETORY_OK);
    CHECK(cachetory_close(family.store) == CACHETORY_OK);
}

/* Whatever is asked of an inherited queue, it is closed; and nothing of the parent's is taken or woken. */
static void inherited_queue(cachetory_queue_t queue, cachetory_t cache)
{
    cachetory_error_t error;
    cachetory_completion_t completion;
    size_t count;
    EXPECT(cachetory_queue_wait(queue, &completion, 1, CACHETORY_NO_EXPIRY, &count, &error),
           CACHETORY_ERR_CLOSED, &error);
    CHECK(count == 0);
    EXPECT(cachetory_queue_cancel(queue, 1, &error), CACHETORY_ERR_CLOSED, &error);
    EXPECT(cachetory_ping_async(cache, queue, 1, &error), CACHETORY_ERR_CLOSED, &error);
    CHECK(cachetory_queue_fd(queue) == -1);
    CHECK(cachetory_queue_close(queue) == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_queue_close(queue) == CACHETORY_ERR_CLOSED);
}

struct asynchronous {
    cachetory_t store;
    cachetory_queue_t queue;
    int fd;
};

static void asynchronous_child(void *arg)
{
    struct asynchronous *parent = arg;
    inherited_queue(parent->queue, parent->store);
    /* The number may be another's by now, for all that the library knows: it is left alone. */
    CHECK(fcntl(parent->fd, F_GETFD) == FD_CLOEXEC);

    /* The cache goes on, with a queue of the child's own. */
    cachetory_queue_t own = open_queue();
    async_round_trip(parent->store, own, "child");
    CHECK(cachetory_queue_close(own) == CACHETORY_OK);
    CHECK(cachetory_close(parent->store) == CACHETORY_OK);
}

static void queues(void)
{
    struct asynchronous parent = {.store = open_cache("memory://"), .queue = open_queue()};
    cachetory_error_t error;
    parent.fd = cachetory_queue_fd(parent.queue);
    CHECK(parent.fd >= 0);
    async_round_trip(parent.store, parent.queue, "parent");
    EXPECT(cachetory_get_async(parent.store, parent.queue, 7, "parent", 6, &error), CACHETORY_OK, &error);

    wait_for(in_child(asynchronous_child, &parent));

    struct pollfd readable = {.fd = parent.fd, .events = POLLIN};
    CHECK(poll(&readable, 1, 0) == 1);
    cachetory_completion_t completion = next_completion(parent.queue);
    CHECK(completion.tag == 7 && completion.status == CACHETORY_OK);
    cachetory_completion_free(&completion);
    CHECK(poll(&readable, 1, 0) == 0);
    async_round_trip(parent.store, parent.queue, "parent");
    CHECK(cachetory_queue_close(parent.queue) == CACHETORY_OK);
    CHECK(cachetory_close(parent.store) == CACHETORY_OK);
}

static struct family busy;
static cachetory_t busy_one, hung;
static cachetory_queue_t busy_queue, empty_queue;
static atomic_int over;
static atomic_int next_thread;

static void *keep_busy(void *unused)
{
    char who[32];
    (void)unused;
    snprintf(who, sizeof who, "parent-%d", atomic_fetch_add(&next_thread, 1));
    while (!atomic_load(&over)) {
        call(busy.cache, who);
        call(busy_one, who);
        call_together(busy.cache, busy_one, who);
        call(busy.store, who);
        /* Handles come and go, so that forks happen in the middle of that too. */
        cachetory_t passing = open_cache("memory://");
        call(passing, who);
        CHECK(cachetory_close(passing) == CACHETORY_OK);
    }
    close_queue_of_mine();
    return NULL;
}

/* On a handle of its own, whose call hangs where the server never answers that key, until the handle is closed. */
static void *hang(void *unused)
{
    cachetory_value_t value;
    (void)unused;
    while (!atomic_load(&over)) {
        cachetory_get(hung, "hang", 4, &value, NULL);
        cachetory_value_free(&value);
    }
    return NULL;
}

/* Submits and reaps without a pause, so that forks happen while the queue is locked. */
static void *keep_submitting(void *unused)
{
    cachetory_completion_t completions[8];
    size_t count;
    (void)unused;
    while (!atomic_load(&over)) {
        for (uint64_t tag = 0; tag < 8; tag++)
            CHECK(cachetory_get_async(busy.store, busy_queue, tag, "parent-0", 8, NULL) == CACHETORY_OK);
        for (size_t left = 8; left > 0; left -= count) {
            CHECK(cachetory_queue_wait(busy_queue, completions, 8, WAIT_MS, &count, NULL) == CACHETORY_OK);
            CHECK(count > 0);
            for (size_t i = 0; i < count; i++)
                cachetory_completion_free(&completions[i]);
        }
    }
    return NULL;
}

static void *keep_waiting(void *unused)
{
    cachetory_completion_t completion;
    size_t count;
    (void)unused;
    CHECK(cachetory_queue_wait(empty_queue, &completion, 1, CACHETORY_NO_EXPIRY, &count, NULL) ==
          CACHETORY_ERR_CLOSED);
    return NULL;
}

static void busy_child(void *arg)
{
    (void)arg;
    char who[32];
    inherited_queue(busy_queue, busy.store);
    inherited_queue(empty_queue, busy.store);
    cachetory_queue_t own = open_queue();
    async_round_trip(busy.store, own, "child");
    CHECK(cachetory_queue_close(own) == CACHETORY_OK);
    cachetory_error_t error;
    cachetory_value_t value;
    snprintf(who, sizeof who, "child-%ld", (long)getpid());
    EXPECT(cachetory_get(busy.store, "parent-0", CACHETORY_STRLEN, &value, &error),
           CACHETORY_NOT_FOUND, &error);
    call_together(busy.cache, busy_one, who);
    for (int i = 0; i < 3; i++) {
        call(busy.cache, who);
        call(busy_one, who);
        call(busy.store, who);
    }
    cachetory_t another = open_cache(busy.url);
    call(another, who);
    CHECK(cachetory_close(another) == CACHETORY_OK);
    CHECK(cachetory_close(busy.cache) == CACHETORY_OK && cachetory_close(busy_one) == CACHETORY_OK);
    CHECK(cachetory_close(busy.store) == CACHETORY_OK);
    close_queue_of_mine();
}

/* Forks while other threads are in the middle of calls, and hold what they hold. */
static void under_load(const char *url, const char *one)
{
    pthread_t threads[THREADS + 3];
    busy_queue = open_queue();
    empty_queue = open_queue();
    busy = (struct family){.url = url, .cache = open_cache(url), .store = open_cache("memory://")};
    busy_one = open_cache(one);
    hung = open_cache(url);
    /* A fork while another thread is within the C library's resolver leaves that unusable in the child. */
    call(busy.cache, "parent-0");
    call(busy_one, "parent-0");
    call(hung, "parent-0");
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, keep_busy, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS], NULL, hang, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS + 1], NULL, keep_submitting, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS + 2], NULL, keep_waiting, NULL) == 0);
    for (int i = 0; i < FORKS; i++)
        wait_for(in_child(busy_child, NULL));
    atomic_store(&over, 1);
    CHECK(cachetory_queue_close(empty_queue) == CACHETORY_OK && cachetory_close(hung) == CACHETORY_OK);
    for (int i = 0; i < THREADS + 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(cachetory_queue_close(busy_queue) == CACHETORY_OK);
    CHECK(cachetory_close(busy.cache) == CACHETORY_OK && cachetory_close(busy_one) == CACHETORY_OK);
    CHECK(cachetory_close(busy.store) == CACHETORY_OK);
}

struct held {
    cachetory_t cache, one;
    cachetory_queue_t queue;
};

static void child_beside_calls_in_flight(void *arg)
{
    struct held *parent = arg;
    inherited_queue(parent->queue, parent->cache);
    call_together(parent->cache, parent->one, "child");
    call(parent->cache, "child");
    call(parent->one, "child");
    CHECK(cachetory_close(parent->cache) == CACHETORY_OK);
    close_queue_of_mine();
}

static void *get_held(void *cache)
{
    cachetory_error_t error;
    cachetory_value_t value;
    EXPECT(cachetory_get(*(cachetory_t *)cache, "held:1", 6, &value, &error), CACHETORY_OK, &error);
    CHECK(strcmp(value.data, "held:1") == 0);
    cachetory_value_free(&value);
    return NULL;
}

/* What the parent has in flight is answered when it says so, and only to the parent. */
static void with_calls_in_flight(const char *url, const char *one)
{
    struct held family = {open_cache(url), open_cache(one), open_queue()};
    cachetory_t free_one = open_cache(url);
    cachetory_error_t error;
    pthread_t threads[2];
    CHECK(pthread_create(&threads[0], NULL, get_held, &family.cache) == 0);
    CHECK(pthread_create(&threads[1], NULL, get_held, &family.one) == 0);
    for (int i = 0; i < CALLS; i++) {
        submit_get(family.cache, family.queue, (uint64_t)i, "held:1");
        submit_get(family.one, family.queue, (uint64_t)(CALLS + i), "held:1");
    }
    for (int i = 0; i < 3; i++)
        wait_for(in_child(child_beside_calls_in_flight, &family));
    /* Nothing of the parent's has come to an end. */
    cachetory_completion_t completion;
    size_t count;
    EXPECT(cachetory_queue_wait(family.queue, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 0);
    EXPECT(cachetory_set(free_one, "open", 4, "", 0, CACHETORY_NO_EXPIRY, 0, &error), CACHETORY_OK, &error);
    char seen[2 * CALLS] = {0};
    for (int i = 0; i < 2 * CALLS; i++) {
        completion = taken(family.queue);
        CHECK(completion.status == CACHETORY_OK && strcmp(completion.value.data, "held:1") == 0);
        CHECK(completion.tag < 2 * CALLS && !seen[completion.tag]);
        seen[completion.tag] = 1;
        cachetory_completion_free(&completion);
    }
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(cachetory_close(family.cache) == CACHETORY_OK && cachetory_close(family.one) == CACHETORY_OK);
    CHECK(cachetory_close(free_one) == CACHETORY_OK && cachetory_queue_close(family.queue) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    face = strcmp(argv[1], "synchronous") == 0 ? SYNCHRONOUS : strcmp(argv[1], "waited") == 0 ? WAITED : POLLED;
    if (strcmp(argv[2], "held") == 0) {
        with_calls_in_flight(argv[3], argv[4]);
    } else if (strcmp(argv[2], "load") == 0) {
        under_load(argv[3], argv[4]);
    } else {
        side_by_side(argv[3]);
        closed_unused(argv[3]);
        queues();
    }
    close_queue_of_mine();
    return 0;
}
