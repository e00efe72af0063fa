/* Errors and deadlines: what a failed call says, and what to do about it.
 *
 *     errors [URL]
 *
 * The status is for the program, the message for its log (here: stderr), the flags for the question whether to retry.
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep, sockets */

#include <cachetory.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char *advice(const cachetory_error_t *error)
{
    if (error->flags & CACHETORY_ERROR_MAYBE_APPLIED)
        return error->flags & CACHETORY_ERROR_RETRYABLE ? "may have been applied: try again if twice does no harm"
                                                        : "may have been applied";
    return error->flags & CACHETORY_ERROR_RETRYABLE ? "try again later" : "trying again is of no use";
}

static void report(const char *what, const cachetory_error_t *error)
{
    printf("%s: %s", what, cachetory_status_name(error->status));
    if (error->status < 0) {
        printf(" (%s)", advice(error));
        fprintf(stderr, "errors: %s: %s\n", what, error->message);
    }
    printf("\n");
}

/* Retries with a back-off. Only a call that may be carried out twice is retried like this: a get, or a set of the same
 * value; not a claim with CACHETORY_SET_IF_NOT_EXISTS. */
static cachetory_status_t set_with_retries(cachetory_t cache, const char *key, int64_t ttl_ms, cachetory_error_t *error)
{
    struct timespec pause = {.tv_nsec = 10 * 1000000};
    for (int attempt = 1;; attempt++, pause.tv_nsec *= 2) {
        cachetory_status_t status = cachetory_set(cache, key, CACHETORY_STRLEN, "value", 5, ttl_ms, 0, error);
        if (status >= 0 || !(error->flags & CACHETORY_ERROR_RETRYABLE) || attempt == 3) {
            printf("attempts: %d\n", attempt);
            return status;
        }
        nanosleep(&pause, NULL);
    }
}

static void bad_urls(void)
{
    static const char *const urls[] = {
        "redsi://localhost",
        "redis://localhost?sokcet_timeout=1",
        "memory://?max_bytes=much",
    };
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        cachetory_t cache;
        cachetory_error_t error;
        if (cachetory_open_url(urls[i], &cache, &error) >= 0)
            cachetory_close(cache);
        report(urls[i], &error); /* the message names what is wrong; never a password */
    }
}

static void no_server(void)
{
    /* Opening checks the URL alone, so a program starts while its server is down. The first call connects. */
    cachetory_t cache;
    cachetory_error_t error;
    cachetory_open_url("unix:///nonexistent/redis.sock", &cache, &error);
    report("open, no server", &error);
    set_with_retries(cache, "example:errors", 1000, &error);
    report("set, no server", &error);
    cachetory_close(cache);
}

/* A socket that takes connections and never says a word, as a server that is stopped or cut off does. */
static int listen_silently(unsigned short *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        return -1;
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0
        || getsockname(listener, (struct sockaddr *)&address, &length) < 0) {
        close(listener);
        return -1;
    }
    *port = ntohs(address.sin_port);
    return listener;
}

static void silent_server(void)
{
    unsigned short port;
    int listener = listen_silently(&port);
    if (listener < 0) {
        perror("errors: cannot listen");
        return;
    }

    /* One deadline holds for a whole call, from resolving the name to the last byte of the answer: here 0.2 seconds.
     * Without fail_fast=false the second call would fail with CACHETORY_ERR_DOWN, and later ones so at once. */
    char url[80];
    snprintf(url, sizeof url, "redis://127.0.0.1:%d?socket_timeout=0.2&fail_fast=false", port);
    cachetory_t cache;
    cachetory_value_t value;
    cachetory_error_t error;
    cachetory_open_url(url, &cache, &error);
    cachetory_get(cache, "example:errors", CACHETORY_STRLEN, &value, &error); /* on an error there is nothing to free */
    report("get, silent server", &error);
    cachetory_set(cache, "example:errors", CACHETORY_STRLEN, "value", 5, 1000, 0, &error);
    report("set, silent server", &error);
    cachetory_close(cache);
    close(listener);
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    bad_urls();
    no_server();
    silent_server();

    cachetory_t cache;
    cachetory_error_t error;
    if (cachetory_open_url(url, &cache, &error) < 0) {
        fprintf(stderr, "errors: %s\n", error.message);
        return EXIT_FAILURE;
    }

    /* A programmer's mistake: no ttl is 0. It is refused before anything is sent, and not tried twice. */
    set_with_retries(cache, "example:errors", 0, &error);
    report("set, ttl 0", &error);

    /* With a server that is there all is well at the first attempt. A miss, too, is an answer and not an error. */
    set_with_retries(cache, "example:errors", 1000, &error);
    report("set", &error);
    bool well = error.status == CACHETORY_OK;
    cachetory_delete(cache, "example:errors", CACHETORY_STRLEN, &error);
    report("delete", &error);
    cachetory_delete(cache, "example:errors", CACHETORY_STRLEN, &error);
    report("delete again", &error);
    well = well && error.status == CACHETORY_NOT_FOUND;

    /* Whoever asks for no error struct has the status all the same. A closed handle is an error, never a crash. */
    cachetory_close(cache);
    printf("ping, closed: %s\n", cachetory_status_name(cachetory_ping(cache, NULL)));
    printf("closed again: %s\n", cachetory_status_name(cachetory_close(cache)));
    return well ? EXIT_SUCCESS : EXIT_FAILURE;
}
