/* sigpipe URL: uses a server whose connections break at nasty moments, with SIGPIPE as it is by default.
   Prints how many calls were answered and how many failed; calls go on until a call `stop` finds that key. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <signal.h>

enum { SIZE = 300000, LEAST = 200, MOST = 100000 };

static int may_fail_so(cachetory_status_t status)
{
    return status == CACHETORY_ERR_IO || status == CACHETORY_ERR_CONNECT || status == CACHETORY_ERR_TLS ||
           status == CACHETORY_ERR_TIMEOUT;
}

static int count(cachetory_status_t status, const cachetory_error_t *error, int *failed)
{
    if (status >= 0)
        return 1;
    if (!may_fail_so(status))
        fprintf(stderr, "%s: %s\n", cachetory_status_name(status), error->message);
    CHECK(may_fail_so(status));
    ++*failed;
    return 0;
}

static void default_sigpipe(void)
{
    struct sigaction action;
    CHECK(sigaction(SIGPIPE, NULL, &action) == 0);
    CHECK(action.sa_handler == SIG_DFL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    CHECK(sigprocmask(SIG_SETMASK, &none, NULL) == 0);

    cachetory_t cache = open_cache(argv[1]);
    char *large = calloc(1, SIZE);
    CHECK(large != NULL);
    int answered = 0, failed = 0;
    for (int i = 0; i < MOST; i++) {
        cachetory_error_t error;
        cachetory_value_t value;
        size_t size = i % 3 == 0 ? SIZE : 10;
        answered += count(cachetory_set(cache, "k", 1, large, size, CACHETORY_NO_EXPIRY, 0, &error), &error, &failed);
        cachetory_status_t status = cachetory_get(cache, "stop", 4, &value, &error);
        answered += count(status, &error, &failed);
        cachetory_value_free(&value);
        if (status == CACHETORY_OK && i >= LEAST)
            break;
    }
    default_sigpipe();
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    free(large);
    printf("%d %d\n", answered, failed);
    return 0;
}
