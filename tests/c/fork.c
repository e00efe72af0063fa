/* fork URL: parent, children and grandchildren go on side by side. The names of their keys tell the processes apart. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 50, FORKS = 25, THREADS = 4 };

/* A process must end by itself before this. */
enum { GUARD_SECONDS = 40 };

static void many_round_trips(cachetory_t cache, const char *who)
{
    for (int i = 0; i < ROUNDS; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s:%d", who, i);
        round_trip(cache, key);
    }
}

/* Does `body` in a child, with a guard against hanging. */
static pid_t in_child(void (*body)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        alarm(GUARD_SECONDS);
        body(arg);
        exit(0);
    }
    return pid;
}

static void wait_for(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status))
        fprintf(stderr, "a child died of signal %d\n", WTERMSIG(status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
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
    many_round_trips(family->cache, "grandchild");
    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
}

static void child(void *arg)
{
    struct family *family = arg;
    cachetory_error_t error;
    cachetory_value_t value;

    EXPECT(cachetory_get(family->store, "k", 1, &value, &error), CACHETORY_NOT_FOUND, &error);
    round_trip(family->store, "only in the child");

    /* What the parent was given is a copy here, and the child's to free. */
    CHECK(strcmp(family->value.data, "parent:0") == 0);
    cachetory_value_free(&family->value);
    CHECK(strcmp(family->values.items[0].data, "parent:0") == 0);
    cachetory_values_free(&family->values);

    round_trip(family->cache, "child:first");
    pid_t pid = in_child(grandchild, family);
    many_round_trips(family->cache, "child");
    wait_for(pid);

    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
    CHECK(cachetory_close(family->cache) == CACHETORY_ERR_CLOSED);
    EXPECT(cachetory_ping(family->cache, &error), CACHETORY_ERR_CLOSED, &error);
    cachetory_t another = open_cache(family->url);
    many_round_trips(another, "child");
    CHECK(cachetory_close(another) == CACHETORY_OK);
    CHECK(cachetory_close(family->store) == CACHETORY_OK);
}

static void side_by_side(const char *url)
{
    struct family family = {.url = url, .cache = open_cache(url), .store = open_cache("memory://")};
    cachetory_error_t error;
    cachetory_bytes_t key = {"parent:0", 8};

    many_round_trips(family.cache, "parent");
    round_trip(family.store, "k");
    EXPECT(cachetory_get(family.cache, "parent:0", 8, &family.value, &error), CACHETORY_OK, &error);
    EXPECT(cachetory_mget(family.cache, &key, 1, &family.values, &error), CACHETORY_OK, &error);

    pid_t pid = in_child(child, &family);
    many_round_trips(family.cache, "parent");
    wait_for(pid);
    many_round_trips(family.cache, "parent");

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
    many_round_trips(family.cache, "parent");
    wait_for(in_child(child_that_only_closes, &family));
    many_round_trips(family.cache, "parent");
    CHECK(cachetory_close(family.cache) == CACHETORY_OK);
    CHECK(cachetory_close(family.store) == CACHETORY_OK);
}

static cachetory_queue_t open_queue(void)
{
    cachetory_queue_t queue;
    cachetory_error_t error;
    EXPECT(cachetory_queue_open(&queue, &error), CACHETORY_OK, &error);
    return queue;
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
    errno = 0;
    CHECK(fcntl(parent->fd, F_GETFD) == -1 && errno == EBADF);

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
static cachetory_queue_t busy_queue, empty_queue;
static atomic_int over;
static atomic_int next_thread;

static void *keep_busy(void *unused)
{
    char who[32];
    (void)unused;
    snprintf(who, sizeof who, "parent-%d", atomic_fetch_add(&next_thread, 1));
    while (!atomic_load(&over)) {
        round_trip(busy.cache, who);
        round_trip(busy.store, who);
        /* Handles come and go, so that forks happen in the middle of that too. */
        cachetory_t passing = open_cache("memory://");
        round_trip(passing, who);
        CHECK(cachetory_close(passing) == CACHETORY_OK);
    }
    return NULL;
}

static void *hang(void *unused)
{
    cachetory_value_t value;
    (void)unused;
    while (!atomic_load(&over)) {
        cachetory_get(busy.cache, "hang", 4, &value, NULL);
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
            CHECK(cachetory_queue_wait(busy_queue, completions, 8, 60 * 1000, &count, NULL) == CACHETORY_OK);
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
    for (int i = 0; i < 3; i++) {
        round_trip(busy.cache, who);
        round_trip(busy.store, who);
    }
    cachetory_t another = open_cache(busy.url);
    round_trip(another, who);
    CHECK(cachetory_close(another) == CACHETORY_OK);
    CHECK(cachetory_close(busy.cache) == CACHETORY_OK);
    CHECK(cachetory_close(busy.store) == CACHETORY_OK);
}

/* Forks while other threads are in the middle of calls, and hold what they hold. */
static void under_load(const char *url)
{
    pthread_t threads[THREADS + 3];
    busy_queue = open_queue();
    empty_queue = open_queue();
    busy = (struct family){.url = url, .cache = open_cache(url), .store = open_cache("memory://")};
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, keep_busy, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS], NULL, hang, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS + 1], NULL, keep_submitting, NULL) == 0);
    CHECK(pthread_create(&threads[THREADS + 2], NULL, keep_waiting, NULL) == 0);
    for (int i = 0; i < FORKS; i++)
        wait_for(in_child(busy_child, NULL));
    atomic_store(&over, 1);
    CHECK(cachetory_queue_close(empty_queue) == CACHETORY_OK);
    for (int i = 0; i < THREADS + 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(cachetory_queue_close(busy_queue) == CACHETORY_OK);
    CHECK(cachetory_close(busy.cache) == CACHETORY_OK);
    CHECK(cachetory_close(busy.store) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    side_by_side(argv[1]);
    closed_unused(argv[1]);
    queues();
    under_load(argv[1]);
    return 0;
}
