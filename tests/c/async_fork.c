/* async_fork held URL ONE: a fork with calls in flight, which are answered once the key "open" was set. ONE has one connection.
   async_fork busy URL...: forks in the middle of much traffic. The parent's calls stay the parent's. */
#define _POSIX_C_SOURCE 200809L

#include "check_async.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 20, FORKS = 30, GUARD_SECONDS = 60 };

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
    cachetory_t cache;
    cachetory_t one;
    cachetory_queue_t queue;
    _Atomic int over;
};

/* An inherited queue is closed, and a new one takes the calls of an inherited cache. */
static void child(void *arg)
{
    struct family *family = arg;
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    EXPECT(cachetory_queue_wait(family->queue, &completion, 1, 0, &count, &error), CACHETORY_ERR_CLOSED, &error);
    EXPECT(cachetory_queue_cancel(family->queue, 1, &error), CACHETORY_ERR_CLOSED, &error);
    EXPECT(cachetory_ping_async(family->cache, family->queue, 1, &error), CACHETORY_ERR_CLOSED, &error);
    CHECK(cachetory_queue_fd(family->queue) == -1);
    CHECK(cachetory_queue_close(family->queue) == CACHETORY_ERR_CLOSED);

    cachetory_queue_t queue = open_queue();
    for (int i = 0; i < CALLS; i++) {
        submit_set(family->cache, queue, (uint64_t)i, "child");
        submit_set(family->one, queue, (uint64_t)i, "child");
    }
    for (int i = 0; i < 2 * CALLS; i++)
        expect_next(queue, CACHETORY_OK);
    round_trip(family->cache, "child");
    round_trip(family->one, "child");
    for (int i = 0; i < CALLS; i++)
        submit_get(family->one, queue, (uint64_t)i, "child");
    for (int i = 0; i < CALLS; i++) {
        completion = next(queue);
        CHECK(completion.status == CACHETORY_OK && strcmp(completion.value.data, "child") == 0);
        cachetory_completion_free(&completion);
    }
    CHECK(cachetory_close(family->cache) == CACHETORY_OK);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
}

static void held(const char *url, const char *one)
{
    struct family family = {open_cache(url), open_cache(one), open_queue(), 0};
    cachetory_t free_one = open_cache(url);
    for (int i = 0; i < CALLS; i++) {
        submit_get(family.cache, family.queue, (uint64_t)i, "held:1");
        submit_get(family.one, family.queue, (uint64_t)(CALLS + i), "held:1");
    }
    for (int i = 0; i < 3; i++)
        wait_for(in_child(child, &family));
    /* Nothing of the parent's has come to an end. */
    cachetory_completion_t completion;
    cachetory_error_t error;
    size_t count;
    EXPECT(cachetory_queue_wait(family.queue, &completion, 1, 0, &count, &error), CACHETORY_OK, &error);
    CHECK(count == 0);
    EXPECT(cachetory_set(free_one, "open", 4, "", 0, CACHETORY_NO_EXPIRY, 0, &error), CACHETORY_OK, &error);
    char seen[2 * CALLS] = {0};
    for (int i = 0; i < 2 * CALLS; i++) {
        completion = next(family.queue);
        CHECK(completion.status == CACHETORY_OK && strcmp(completion.value.data, "held:1") == 0);
        CHECK(completion.tag < 2 * CALLS && !seen[completion.tag]);
        seen[completion.tag] = 1;
        cachetory_completion_free(&completion);
    }
    CHECK(cachetory_close(family.cache) == CACHETORY_OK && cachetory_close(family.one) == CACHETORY_OK);
    CHECK(cachetory_close(free_one) == CACHETORY_OK && cachetory_queue_close(family.queue) == CACHETORY_OK);
}

static void *traffic(void *arg)
{
    struct family *family = arg;
    cachetory_queue_t queue = open_queue();
    while (!atomic_load(&family->over)) {
        for (int i = 0; i < CALLS; i++) {
            submit_set(family->cache, queue, (uint64_t)i, "parent");
            submit_set(family->one, queue, (uint64_t)i, "parent");
        }
        for (int i = 0; i < 2 * CALLS; i++)
            expect_next(queue, CACHETORY_OK);
    }
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK);
    return NULL;
}

static void busy(const char *url, const char *one)
{
    struct family family = {open_cache(url), open_cache(one), open_queue(), 0};
    pthread_t threads[2];
    /* A fork while another thread is within the C library's resolver leaves that unusable in the child. */
    round_trip(family.cache, "parent");
    round_trip(family.one, "parent");
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, traffic, &family) == 0);
    for (int i = 0; i < FORKS; i++)
        wait_for(in_child(child, &family));
    atomic_store(&family.over, 1);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(cachetory_close(family.cache) == CACHETORY_OK && cachetory_close(family.one) == CACHETORY_OK);
    CHECK(cachetory_queue_close(family.queue) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    if (strcmp(argv[1], "held") == 0)
        held(argv[2], argv[3]);
    else
        busy(argv[2], argv[3]);
    return 0;
}
