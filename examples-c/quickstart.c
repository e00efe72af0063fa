/* Quickstart: open a cache, set a value, get it back, close.
 *
 *     cc quickstart.c $(pkg-config --cflags --libs cachetory) -o quickstart
 *     ./quickstart                           # in the memory of this process
 *     ./quickstart redis://localhost:6379    # the same on a server
 */
#include <cachetory.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    /* Zeroed, both may be released at the end wherever we come from. */
    cachetory_t cache = {0};
    cachetory_value_t value = {0};
    cachetory_error_t error;
    int exit_code = EXIT_FAILURE;

    if (cachetory_open_url(url, &cache, &error) < 0)
        goto failed;

    /* Keys and values are bytes with a length; CACHETORY_STRLEN has a key measured. The value lives for a minute. */
    static const char greeting[] = "hello, world";
    if (cachetory_set(cache, "example:greeting", CACHETORY_STRLEN, greeting, sizeof greeting - 1, 60 * 1000, 0,
                      &error) < 0)
        goto failed;

    /* An answer is 0 or more, an error less. That a key is not there is an answer. */
    cachetory_status_t status = cachetory_get(cache, "example:greeting", CACHETORY_STRLEN, &value, &error);
    if (status < 0)
        goto failed;
    if (status == CACHETORY_NOT_FOUND)
        printf("greeting: none\n");
    else
        printf("greeting: %s (%zu bytes)\n", value.data, value.len); /* text may be printed: a NUL follows it */

    if (cachetory_delete(cache, "example:greeting", CACHETORY_STRLEN, &error) < 0)
        goto failed;
    exit_code = EXIT_SUCCESS;

failed:
    if (exit_code != EXIT_SUCCESS)
        fprintf(stderr, "quickstart: %s: %s\n", cachetory_status_name(error.status), error.message);
    cachetory_value_free(&value); /* the value is ours, whatever became of the cache */
    cachetory_close(cache);
    return exit_code;
}
