/* resolver URL: a name server that hangs holds up no deadline, no other cache and no close. URL has a name that is
   known. */
#define _GNU_SOURCE

#include "check_async.h"

#include <dlfcn.h>
#include <netdb.h>
#include <unistd.h>

enum { CALLS = 50 };

/* The library calls this one. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    while (node && strncmp(node, "hang", 4) == 0)
        pause();
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    CHECK(real != NULL);
    return real(node, service, hints, found);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    cachetory_queue_t queue = open_queue();
    cachetory_t hung = open_cache("redis://hang.test/?socket_timeout=0.3");
    cachetory_t patient = open_cache("redis://hang2.test/?socket_timeout=600&socket_connect_timeout=600");
    cachetory_t cache = open_cache(argv[1]);

    for (int i = 0; i < CALLS; i++) {
        submit_get(hung, queue, (uint64_t)i, "k");
        submit_set(patient, queue, (uint64_t)i, "k");
    }
    cachetory_queue_t other = open_queue();
    for (int i = 0; i < CALLS; i++) {
        submit_set(cache, other, (uint64_t)i, "k");
        expect_next(other, CACHETORY_OK);
    }
    for (int i = 0; i < CALLS; i++) {
        cachetory_completion_t completion = next(queue);
        CHECK(completion.status == CACHETORY_ERR_TIMEOUT || completion.status == CACHETORY_ERR_CONNECT);
        CHECK(completion.flags == CACHETORY_ERROR_RETRYABLE);
        cachetory_completion_free(&completion);
    }
    CHECK(cachetory_close(patient) == CACHETORY_OK);
    for (int i = 0; i < CALLS; i++) {
        cachetory_completion_t completion = next(queue);
        CHECK(completion.status == CACHETORY_ERR_CANCELLED && completion.flags == 0);
        cachetory_completion_free(&completion);
    }
    CHECK(cachetory_close(hung) == CACHETORY_OK && cachetory_close(cache) == CACHETORY_OK);
    CHECK(cachetory_queue_close(queue) == CACHETORY_OK && cachetory_queue_close(other) == CACHETORY_OK);
    return 0;
}
