/* arguments URL: every function with arguments that no careful caller would pass. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <limits.h>

static const size_t IMPOSSIBLE[] = {(size_t)PTRDIFF_MAX + 1, (size_t)-2, ((size_t)512 << 20) + 1};
enum { IMPOSSIBLE_COUNT = sizeof IMPOSSIBLE / sizeof *IMPOSSIBLE };

/* Fails with this status, with an error given and without. */
#define REFUSES(wanted, function, ...)                                \
    do {                                                              \
        cachetory_error_t error_;                                     \
        memset(&error_, 0xa5, sizeof error_);                         \
        EXPECT(function(__VA_ARGS__, &error_), (wanted), &error_);    \
        CHECK(error_.flags == 0 && error_.message[0] != '\0');        \
        CHECK(function(__VA_ARGS__, NULL) == (wanted));               \
    } while (0)

#define BAD CACHETORY_ERR_INVALID_ARGUMENT
#define NEVER CACHETORY_NO_EXPIRY

static void bad_keys(cachetory_t cache)
{
    cachetory_value_t value;
    REFUSES(BAD, cachetory_get, cache, NULL, 1, &value);
    CHECK(value.data == NULL && value.len == 0 && value.owner == NULL);
    REFUSES(BAD, cachetory_get, cache, NULL, CACHETORY_STRLEN, &value);
    REFUSES(BAD, cachetory_set, cache, NULL, 1, "v", 1, NEVER, 0);
    REFUSES(BAD, cachetory_expire_in, cache, NULL, 1, 1);
    REFUSES(BAD, cachetory_expire_at, cache, NULL, 1, 1);
    REFUSES(BAD, cachetory_delete, cache, NULL, 1);
    for (int i = 0; i < IMPOSSIBLE_COUNT; i++) {
        size_t len = IMPOSSIBLE[i];
        cachetory_bytes_t key = {"k", len};
        cachetory_bytes_t two[] = {{"k", 1}, key};
        cachetory_values_t values;
        uint64_t deleted = 7;
        cachetory_item_t item = {key, {"v", 1}}, large = {{"k", 1}, {"v", len}};
        REFUSES(BAD, cachetory_get, cache, "k", len, &value);
        REFUSES(BAD, cachetory_mget, cache, &key, 1, &values);
        REFUSES(BAD, cachetory_mget, cache, two, 2, &values);
        REFUSES(BAD, cachetory_set, cache, "k", len, "v", 1, NEVER, 0);
        REFUSES(BAD, cachetory_set, cache, "k", 1, "v", len, NEVER, 0);
        REFUSES(BAD, cachetory_mset, cache, &item, 1, NEVER, 0);
        REFUSES(BAD, cachetory_mset, cache, &large, 1, NEVER, 0);
        REFUSES(BAD, cachetory_expire_in, cache, "k", len, 1);
        REFUSES(BAD, cachetory_expire_at, cache, "k", len, 1);
        REFUSES(BAD, cachetory_delete, cache, "k", len);
        REFUSES(BAD, cachetory_mdelete, cache, &key, 1, &deleted);
        CHECK(deleted == 0);
        /* A count is not read when it cannot be. */
        REFUSES(BAD, cachetory_mget, cache, &key, (size_t)PTRDIFF_MAX - (size_t)i, &values);
        REFUSES(BAD, cachetory_mdelete, cache, &key, (size_t)-1 - (size_t)i, NULL);
        REFUSES(BAD, cachetory_mset, cache, &item, (size_t)-1 - (size_t)i, NEVER, 0);
    }
    /* A value's length is never measured. */
    REFUSES(BAD, cachetory_set, cache, "k", 1, "v", CACHETORY_STRLEN, NEVER, 0);
    REFUSES(BAD, cachetory_set, cache, "k", 1, NULL, 1, NEVER, 0);
}

static void bad_batches(cachetory_t cache)
{
    cachetory_bytes_t key = {"k", 1}, null_key = {NULL, 1}, null_string = {NULL, CACHETORY_STRLEN};
    cachetory_item_t item = {key, {"v", 1}}, null_item = {null_key, {"v", 1}}, null_value = {key, {NULL, 1}};
    cachetory_item_t measured = {key, {"v", CACHETORY_STRLEN}};
    cachetory_values_t values;
    REFUSES(BAD, cachetory_mget, cache, NULL, 1, &values);
    CHECK(values.items == NULL && values.len == 0 && values.owner == NULL);
    REFUSES(BAD, cachetory_mget, cache, &null_key, 1, &values);
    REFUSES(BAD, cachetory_mget, cache, &null_string, 1, &values);
    REFUSES(BAD, cachetory_mget, cache, &key, 1, NULL);
    REFUSES(BAD, cachetory_mdelete, cache, NULL, 1, NULL);
    REFUSES(BAD, cachetory_mdelete, cache, &null_key, 1, NULL);
    REFUSES(BAD, cachetory_mset, cache, NULL, 1, NEVER, 0);
    REFUSES(BAD, cachetory_mset, cache, &null_item, 1, NEVER, 0);
    REFUSES(BAD, cachetory_mset, cache, &null_value, 1, NEVER, 0);
    REFUSES(BAD, cachetory_mset, cache, &measured, 1, NEVER, 0);
    REFUSES(BAD, cachetory_mset, cache, &item, 1, NEVER, 1);
    REFUSES(BAD, cachetory_mset, cache, &item, 1, NEVER, CACHETORY_SET_IF_NOT_EXISTS);
}

static void bad_numbers(cachetory_t cache)
{
    const int64_t ttls[] = {0, -1, INT64_MIN, INT64_MAX - 1};
    cachetory_item_t item = {{"k", 1}, {"v", 1}};
    for (size_t i = 0; i < sizeof ttls / sizeof *ttls; i++) {
        REFUSES(BAD, cachetory_set, cache, "k", 1, "v", 1, ttls[i], 0);
        REFUSES(BAD, cachetory_mset, cache, &item, 1, ttls[i], 0);
    }
    REFUSES(BAD, cachetory_expire_in, cache, "k", 1, INT64_MAX - 1);
    for (uint32_t flags = 2; flags != 0; flags <<= 1) {
        REFUSES(BAD, cachetory_set, cache, "k", 1, "v", 1, NEVER, flags);
        REFUSES(BAD, cachetory_set, cache, "k", 1, "v", 1, NEVER, flags | 1);
        REFUSES(BAD, cachetory_mset, cache, &item, 1, NEVER, flags);
    }
    cachetory_error_t error;
    CHECK(cachetory_expire_in(cache, "no such key", 11, INT64_MIN, &error) == CACHETORY_NOT_FOUND);
    CHECK(cachetory_expire_at(cache, "no such key", 11, INT64_MIN, &error) == CACHETORY_NOT_FOUND);
    CHECK(cachetory_expire_at(cache, "no such key", 11, INT64_MAX - 1, &error) == CACHETORY_NOT_FOUND);
}

/* Nothing, in every way it can be written. */
static void empties(cachetory_t cache)
{
    cachetory_error_t error;
    cachetory_value_t value;
    cachetory_values_t values;
    cachetory_bytes_t key = {NULL, 0};
    uint64_t deleted = 7;
    EXPECT(cachetory_set(cache, NULL, 0, NULL, 0, NEVER, 0, &error), CACHETORY_OK, &error);
    CHECK(cachetory_get(cache, "", CACHETORY_STRLEN, &value, &error) >= 0);
    cachetory_value_free(&value);
    cachetory_value_free(&value);
    EXPECT(cachetory_mget(cache, NULL, 0, &values, &error), CACHETORY_OK, &error);
    CHECK(values.len == 0);
    cachetory_values_free(&values);
    cachetory_values_free(&values);
    EXPECT(cachetory_mget(cache, &key, 1, &values, NULL), CACHETORY_OK, NULL);
    CHECK(values.len == 1);
    cachetory_values_free(&values);
    EXPECT(cachetory_mset(cache, NULL, 0, NEVER, 0, &error), CACHETORY_OK, &error);
    EXPECT(cachetory_mdelete(cache, NULL, 0, &deleted, &error), CACHETORY_OK, &error);
    CHECK(deleted == 0);
    EXPECT(cachetory_mdelete(cache, &key, 1, NULL, NULL), CACHETORY_OK, NULL);
    CHECK(cachetory_get(cache, "k", 1, NULL, &error) == BAD);
    CHECK(cachetory_get(cache, "k", 1, NULL, NULL) == BAD);
    cachetory_value_free(NULL);
    cachetory_values_free(NULL);
    value = (cachetory_value_t){0};
    values = (cachetory_values_t){0};
    cachetory_value_free(&value);
    cachetory_values_free(&values);
}

static void no_handle(cachetory_t cache)
{
    cachetory_value_t value;
    cachetory_values_t values;
    cachetory_bytes_t key = {"k", 1};
    cachetory_item_t item = {key, {"v", 1}};
    uint64_t deleted = 7;
    cachetory_error_t error;
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_ping, cache);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_clear, cache);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_get, cache, "k", 1, &value);
    CHECK(value.data == NULL && value.len == 0 && value.owner == NULL);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_mget, cache, &key, 1, &values);
    CHECK(values.items == NULL && values.len == 0 && values.owner == NULL);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_mget, cache, NULL, 0, &values);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_set, cache, "k", 1, "v", 1, NEVER, 0);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_mset, cache, &item, 1, NEVER, 0);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_mset, cache, NULL, 0, NEVER, 0);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_expire_in, cache, "k", 1, 1);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_expire_at, cache, "k", 1, 1);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_delete, cache, "k", 1);
    REFUSES(CACHETORY_ERR_CLOSED, cachetory_mdelete, cache, &key, 1, &deleted);
    CHECK(deleted == 0);
    /* Both are wrong: either may be said. */
    cachetory_status_t status = cachetory_get(cache, NULL, 1, NULL, &error);
    CHECK(status == BAD || status == CACHETORY_ERR_CLOSED);
    CHECK(cachetory_close(cache) == (cache.id == 0 ? CACHETORY_OK : CACHETORY_ERR_CLOSED));
}

static void made_up_handles(cachetory_t real)
{
    const uint64_t ids[] = {0, 1, 2, 0xffffffff, 0x100000000, (uint64_t)1 << 63, UINT64_MAX, 0xdeadbeefdeadbeef};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        no_handle((cachetory_t){ids[i]});
    for (int bit = 0; bit < 64; bit++) {
        uint64_t id = real.id ^ ((uint64_t)1 << bit);
        if (id != 0)
            no_handle((cachetory_t){id});
    }
    unsigned long long state = 88172645463325252ULL;
    for (int i = 0; i < 10000; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        if (state != real.id)
            CHECK(cachetory_close((cachetory_t){state}) == CACHETORY_ERR_CLOSED);
    }
    cachetory_error_t error;
    CHECK(cachetory_delete(real, "k", 1, &error) >= 0);
}

static void bad_urls(void)
{
    cachetory_t cache = {7};
    REFUSES(BAD, cachetory_open_url, NULL, &cache);
    CHECK(cache.id == 0);
    REFUSES(BAD, cachetory_open_url, "memory://", NULL);
    static const char *const urls[] = {"", ":", "://", "memory", "memory:", "MEMORY", "redis", "redis:/", "nosuch://x",
                                       "memory://host", "dummy:///path", "redis://h:port", "redis://h:99999",
                                       "redis://h:-1", "redis://h/x", "redis://h/?db=-1", "redis://h/?db=%zz",
                                       "redis://[::1", "redis://h/?nosuch=1", "redis://%zz@h",
                                       "redis://h/?socket_timeout=0",
                                       "redis://h/?socket_timeout=-1", "redis://h/?socket_timeout=nan",
                                       "redis://h/?protocol=4", "redis://h/?max_connections=0", "unix://"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        cache.id = 7;
        REFUSES(CACHETORY_ERR_INVALID_URL, cachetory_open_url, urls[i], &cache);
        CHECK(cache.id == 0);
    }
}

/* Whatever the bytes, a URL is opened or refused, and says which. */
static void random_urls(void)
{
    static const char *const starts[] = {"", "redis://", "rediss://", "unix://", "memory://", "redis+cluster://",
                                         "redis+sentinel://", "redis://u:p@h/?"};
    static const char alphabet[] = "%:/?#[]@&=,;+.0123456789abcxyzdbprotocl_\\\"' \t\r\n\x01\x7f\x80\xc3\xa4\xff";
    unsigned state = 12345;
    for (int round = 0; round < 4000; round++) {
        char url[400];
        int length = snprintf(url, sizeof url, "%s", starts[round % 8]);
        unsigned count = (state >> 8) % 60;
        for (unsigned i = 0; i < count; i++) {
            state = state * 1103515245 + 12345;
            unsigned draw = state >> 16;
            url[length++] = round % 2 ? alphabet[draw % (sizeof alphabet - 1)] : (char)(draw % 255 + 1);
        }
        url[length] = '\0';
        cachetory_t cache = {7};
        cachetory_error_t error;
        memset(&error, 0xa5, sizeof error);
        cachetory_status_t status = cachetory_open_url(url, &cache, &error);
        CHECK(error.status == status);
        CHECK(memchr(error.message, '\0', sizeof error.message) != NULL);
        if (status == CACHETORY_OK) {
            CHECK(cache.id > UINT32_MAX && cachetory_close(cache) == CACHETORY_OK);
        } else {
            CHECK(status == CACHETORY_ERR_INVALID_URL || status == CACHETORY_ERR_UNSUPPORTED);
            CHECK(cache.id == 0 && error.message[0] != '\0');
        }
    }
    size_t length = 1 << 20;
    char *huge = malloc(length + 1);
    CHECK(huge != NULL);
    memset(huge, 'x', length);
    huge[length] = '\0';
    cachetory_t cache;
    REFUSES(CACHETORY_ERR_INVALID_URL, cachetory_open_url, huge, &cache);
    free(huge);
}

static void names(void)
{
    for (int status = -1000; status < 1000; status++)
        CHECK(cachetory_status_name(status) != NULL);
    CHECK(strlen(cachetory_status_name(INT_MIN)) > 0 && strlen(cachetory_status_name(INT_MAX)) > 0);
    CHECK(strcmp(cachetory_status_name(-3), "CACHETORY_ERR_CLOSED") == 0);
    CHECK(strlen(cachetory_version()) > 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    bad_urls();
    random_urls();
    names();
    cachetory_t cache = open_cache(argv[1]);
    bad_keys(cache);
    bad_batches(cache);
    bad_numbers(cache);
    empties(cache);
    made_up_handles(cache);
    CHECK(cachetory_close(cache) == CACHETORY_OK);
    no_handle(cache);
    return 0;
}
