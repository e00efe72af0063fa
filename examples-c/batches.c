/* Batches: many keys in one round trip, which is what makes a cache across a network fast.
 *
 *     batches [URL]
 *
 * On one server a batch is atomic as well: nobody sees half of an mset, and an mget is one snapshot.
 */
#include <cachetory.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* Any length may be CACHETORY_STRLEN for a key; a value's length is always given. */
static const cachetory_item_t users[] = {
    {{"example:user:1", CACHETORY_STRLEN}, {"Ada", 3}},
    {{"example:user:2", CACHETORY_STRLEN}, {"Grace\0Hopper", 12}}, /* any bytes will do */
    {{"example:user:3", CACHETORY_STRLEN}, {"", 0}},               /* none, too: that is a value, not a miss */
};

static const cachetory_bytes_t keys[] = {
    {"example:user:1", CACHETORY_STRLEN}, {"example:user:2", CACHETORY_STRLEN}, {"example:user:3", CACHETORY_STRLEN},
    {"example:user:4", CACHETORY_STRLEN}, {"example:user:1", CACHETORY_STRLEN},
};

int main(int argc, char **argv)
{
    const char *url = argc > 1 ? argv[1] : getenv("CACHETORY_URL");
    if (url == NULL)
        url = "memory://";

    cachetory_t cache = {0};
    cachetory_values_t values = {0};
    cachetory_error_t error;
    int exit_code = EXIT_FAILURE;

    if (cachetory_open_url(url, &cache, &error) < 0)
        goto failed;

    /* One ttl for all of them: an hour. */
    if (cachetory_mset(cache, users, COUNT(users), 60 * 60 * 1000, 0, &error) < 0)
        goto failed;
    printf("set %zu\n", COUNT(users));

    /* items[i] answers keys[i]. A miss has no data; a hit has, even when it is empty. */
    if (cachetory_mget(cache, keys, COUNT(keys), &values, &error) < 0)
        goto failed;
    for (size_t i = 0; i < values.len; i++) {
        if (values.items[i].data == NULL) {
            printf("%s: not there\n", keys[i].data);
            continue;
        }
        printf("%s: %zu bytes:", keys[i].data, values.items[i].len);
        for (size_t j = 0; j < values.items[i].len; j++)
            printf(" %02x", (unsigned char)values.items[i].data[j]);
        printf("\n");
    }

    uint64_t deleted;
    if (cachetory_mdelete(cache, keys, COUNT(keys), &deleted, &error) < 0)
        goto failed;
    printf("deleted %" PRIu64 "\n", deleted);
    exit_code = EXIT_SUCCESS;

failed:
    if (exit_code != EXIT_SUCCESS)
        fprintf(stderr, "batches: %s: %s\n", cachetory_status_name(error.status), error.message);
    cachetory_values_free(&values); /* one call for the whole batch */
    cachetory_close(cache);
    return exit_code;
}
