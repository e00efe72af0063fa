/* Every function of the ABI declared once more, as it was promised: where the header differs, this does not compile. */
#include "cachetory.h"

cachetory_status_t cachetory_open_url(const char *, cachetory_t *, cachetory_error_t *);
cachetory_status_t cachetory_close(cachetory_t);
cachetory_status_t cachetory_ping(cachetory_t, cachetory_error_t *);

cachetory_status_t cachetory_get(cachetory_t, const void *, size_t, cachetory_value_t *,
                                 cachetory_error_t *);
cachetory_status_t cachetory_mget(cachetory_t, const cachetory_bytes_t *, size_t,
                                  cachetory_values_t *, cachetory_error_t *);
cachetory_status_t cachetory_set(cachetory_t, const void *, size_t, const void *, size_t, int64_t,
                                 uint32_t, cachetory_error_t *);
cachetory_status_t cachetory_mset(cachetory_t, const cachetory_item_t *, size_t, int64_t, uint32_t,
                                  cachetory_error_t *);
cachetory_status_t cachetory_expire_in(cachetory_t, const void *, size_t, int64_t,
                                       cachetory_error_t *);
cachetory_status_t cachetory_expire_at(cachetory_t, const void *, size_t, int64_t,
                                       cachetory_error_t *);
cachetory_status_t cachetory_delete(cachetory_t, const void *, size_t, cachetory_error_t *);
cachetory_status_t cachetory_mdelete(cachetory_t, const cachetory_bytes_t *, size_t, uint64_t *,
                                     cachetory_error_t *);
cachetory_status_t cachetory_clear(cachetory_t, cachetory_error_t *);

void cachetory_value_free(cachetory_value_t *);
void cachetory_values_free(cachetory_values_t *);
const char *cachetory_status_name(cachetory_status_t);
const char *cachetory_version(void);

/* The members, in order and with their types: positional initialisers of anything else warn or do not compile. */
static char byte = 'x';
extern const cachetory_t handle;
extern const cachetory_item_t item;
extern const cachetory_value_t value;
extern const cachetory_values_t values;
const cachetory_t handle = {(uint64_t)1 << 63};
const cachetory_item_t item = {{&byte, sizeof byte}, {&byte, CACHETORY_STRLEN}};
const cachetory_value_t value = {&byte, sizeof byte, &byte};
const cachetory_values_t values = {&item.key, 1, &byte};
