/* signals URL HANGING_URL: calls are made under a hail of signals. The second server never answers. */
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE 700

#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>

#include "../support/pause.h"

/* The bound tells an end from a hang, and the attempts a machine that is busy from one that never sends in time. */
enum { ROUNDS = 1500, LONGEST_SECONDS = 120, ATTEMPTS = 100 };

static atomic_int over;
static atomic_long caught;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&caught, 1);
}

static void *bombard(void *target)
{
    while (!atomic_load(&over)) {
        pthread_kill(*(pthread_t *)target, SIGUSR1);
        provoke_for(200);
    }
    return NULL;
}

/* A write that was sent meets its deadline. Where the machine is so busy that the deadline passes before, it is made
   again. */
static void times_out(const char *url, size_t size)
{
    cachetory_t cache = open_cache(url);
    char *value = calloc(1, size);
    CHECK(value != NULL);
    int was_sent = 0;
    for (int attempt = 0; attempt < ATTEMPTS && !was_sent; attempt++) {
        cachetory_error_t error;
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        EXPECT(cachetory_set(cache, "k", 1, value, size, CACHETORY_NO_EXPIRY, 0, &error), CACHETORY_ERR_TIMEOUT,
               &error);
        clock_gettime(CLOCK_MONOTONIC, &end);
        CHECK(end.tv_sec - start.tv_sec <= LONGEST_SECONDS);
        CHECK((error.flags & ~(uint32_t)CACHETORY_ERROR_MAYBE_APPLIED) == CACHETORY_ERROR_RETRYABLE);
        was_sent = (error.flags & CACHETORY_ERROR_MAYBE_APPLIED) != 0;
    }
    CHECK(was_sent);
    free(value);
    CHECK(cachetory_close(cache) == CACHETORY_OK);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    pthread_t self = pthread_self(), other;
    CHECK(pthread_create(&other, NULL, bombard, &self) == 0);

    cachetory_t cache = open_cache(argv[1]);
    for (int i = 0; i < ROUNDS; i++)
        round_trip(cache, "k");
    for (int i = 0; i < 50; i++) {
        cachetory_t fresh = open_cache(argv[1]);
        round_trip(fresh, "k");
        CHECK(cachetory_close(fresh) == CACHETORY_OK);
    }
    CHECK(cachetory_close(cache) == CACHETORY_OK);

    times_out(argv[2], 1);
    times_out(argv[2], 50 << 20);

    atomic_store(&over, 1);
    CHECK(pthread_join(other, NULL) == 0);
    CHECK(atomic_load(&caught) > 0);
    return 0;
}
