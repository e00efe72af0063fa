/* Expiry: how long a value lives, and how to change that.
 *
 *     expiry [URL]
 *
 * Durations and times are milliseconds. CACHETORY_NO_EXPIRY means for ever, wherever one is asked for.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */

#include <cachetory.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SECOND_MS = 1000, HOUR_MS = 60 * 60 * SECOND_MS };

static int64_t unix_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static cachetory_status_t is_there(cachetory_t cache, const char *key, cachetory_error_t *error)
{
    cachetory_value_t value;
    cachetory_status_t status = cachetory_get(cache, key, CACHETORY_STRLEN, &value, error);
    cachetory_value_free(&value);
    return status;
}

static cachetory_status_t show(cachetory_t cache, const char *when, cachetory_error_t *error)
{
    static const char *const keys[] = {"example:brief", "example:kept", "example:dated"};
    printf("%s:", when);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        cachetory_status_t status = is_there(cache, keys[i], error);
        if (status < 0)
            return status;
        if (status == CACHETORY_OK)
            printf(" %s", keys[i]);
    }
    printf("\n");
    return CACHETORY_OK;
}

static cachetory_status_t wait_until_gone(cachetory_t cache, const char *key, cachetory_error_t *error)
{
    const struct timespec pause = {.tv_nsec = 20 * 1000000};
    cachetory_status_t status;
    while ((status = is_there(cache, key, error)) == CACHETORY_OK)
        nanosleep(&pause, NULL);
    return status;
}

static cachetory_status_t demonstrate(cachetory_t cache, cachetory_error_t *error)
{
    cachetory_status_t status;

    /* A value is born with its ttl. An earlier one of the key is forgotten: each set decides anew. */
    static const cachetory_item_t items[] = {
        {{"example:brief", CACHETORY_STRLEN}, {"1", 1}},
        {{"example:kept", CACHETORY_STRLEN}, {"2", 1}},
        {{"example:dated", CACHETORY_STRLEN}, {"3", 1}},
    };
    if ((status = cachetory_mset(cache, items, 3, 2 * SECOND_MS, 0, error)) < 0)
        return status;

    /* It may be given another: none, or an end at a time of the clock (which is the server's, where there is one). */
    status = cachetory_expire_in(cache, "example:kept", CACHETORY_STRLEN, CACHETORY_NO_EXPIRY, error);
    if (status < 0)
        return status;
    status = cachetory_expire_at(cache, "example:dated", CACHETORY_STRLEN, unix_now_ms() + HOUR_MS, error);
    if (status < 0)
        return status;
    if ((status = show(cache, "at first", error)) < 0)
        return status;

    if ((status = wait_until_gone(cache, "example:brief", error)) < 0)
        return status;
    if ((status = show(cache, "two seconds later", error)) < 0)
        return status;

    /* A key that is not there cannot be given a ttl: that is an answer, not an error. */
    status = cachetory_expire_in(cache, "example:brief", CACHETORY_STRLEN, HOUR_MS, error);
    if (status < 0)
        return status;
    printf("expire_in of a missing key: %s\n", cachetory_status_name(status));

    /* A time that is past ends a value now. */
    status = cachetory_expire_at(cache, "example:dated", CACHETORY_STRLEN, unix_now_ms() - HOUR_MS, error);
    if (status < 0)
        return status;
    if ((status = cachetory_expire_in(cache, "example:kept", CACHETORY_STRLEN, 0, error)) < 0)
        return status;
    return show(cache, "in the end", error);
}

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    cachetory_t cache;
    cachetory_error_t error;
    cachetory_status_t status = cachetory_open_url(url, &cache, &error);
    if (status >= 0)
        status = demonstrate(cache, &error);
    if (status < 0)
        fprintf(stderr, "expiry: %s: %s\n", cachetory_status_name(status), error.message);
    cachetory_close(cache);
    return status < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
