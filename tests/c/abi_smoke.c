/* One program for every way of linking: it is built against an installed library and nothing else. */
#include <stdio.h>
#include <string.h>

#include <cachetory.h>

#define TRY(condition)                                                        \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, error.message); \
      return 1;                                                               \
    }                                                                         \
  } while (0)

int main(void) {
  cachetory_t cache = {0};
  cachetory_error_t error = {0};
  cachetory_value_t value = {0};
  char version[32];

  snprintf(version, sizeof version, "%d.%d.%d", CACHETORY_VERSION_MAJOR, CACHETORY_VERSION_MINOR,
           CACHETORY_VERSION_PATCH);
  TRY(strcmp(version, cachetory_version()) == 0);
  TRY(cachetory_get(cache, "key", 3, &value, &error) == CACHETORY_ERR_CLOSED);
  TRY(cachetory_open_url("nothing://", &cache, &error) == CACHETORY_ERR_INVALID_URL);
  TRY(strcmp(cachetory_status_name(error.status), "CACHETORY_ERR_INVALID_URL") == 0);

  /* Resolving, connecting and TLS bring in most of what a static library needs of the system. */
  TRY(cachetory_open_url("rediss://localhost:1/?socket_timeout=1", &cache, &error) == CACHETORY_OK);
  TRY(cachetory_ping(cache, &error) < 0);
  TRY(cachetory_close(cache) == CACHETORY_OK);

  TRY(cachetory_open_url("memory://", &cache, &error) == CACHETORY_OK);
  TRY(cachetory_set(cache, "key", CACHETORY_STRLEN, "value", 5, 60000, 0, &error) == CACHETORY_OK);
  TRY(cachetory_get(cache, "key", 3, &value, &error) == CACHETORY_OK);
  TRY(value.len == 5 && memcmp(value.data, "value", 6) == 0);
  cachetory_value_free(&value);
  TRY(cachetory_close(cache) == CACHETORY_OK);
  printf("cachetory %s works\n", version);
  return 0;
}
