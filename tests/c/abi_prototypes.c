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

cachetory_status_t cachetory_queue_open(cachetory_queue_t *, cachetory_error_t *);
cachetory_status_t cachetory_queue_close(cachetory_queue_t);
int cachetory_queue_fd(cachetory_queue_t);
cachetory_status_t cachetory_queue_wait(cachetory_queue_t, cachetory_completion_t *, size_t,
                                        int64_t, size_t *, cachetory_error_t *);
cachetory_status_t cachetory_queue_cancel(cachetory_queue_t, uint64_t, cachetory_error_t *);
void cachetory_completion_free(cachetory_completion_t *);

cachetory_status_t cachetory_ping_async(cachetory_t, cachetory_queue_t, uint64_t,
                                        cachetory_error_t *);
cachetory_status_t cachetory_get_async(cachetory_t, cachetory_queue_t, uint64_t, const void *,
                                       size_t, cachetory_error_t *);
cachetory_status_t cachetory_mget_async(cachetory_t, cachetory_queue_t, uint64_t,
                                        const cachetory_bytes_t *, size_t, cachetory_error_t *);
cachetory_status_t cachetory_set_async(cachetory_t, cachetory_queue_t, uint64_t, const void *,
                                       size_t, const void *, size_t, int64_t, uint32_t,
                                       cachetory_error_t *);
cachetory_status_t cachetory_mset_async(cachetory_t, cachetory_queue_t, uint64_t,
                                        const cachetory_item_t *, size_t, int64_t, uint32_t,
                                        cachetory_error_t *);
cachetory_status_t cachetory_expire_in_async(cachetory_t, cachetory_queue_t, uint64_t, const void *,
                                             size_t, int64_t, cachetory_error_t *);
cachetory_status_t cachetory_expire_at_async(cachetory_t, cachetory_queue_t, uint64_t, const void *,
                                             size_t, int64_t, cachetory_error_t *);
cachetory_status_t cachetory_delete_async(cachetory_t, cachetory_queue_t, uint64_t, const void *,
                                          size_t, cachetory_error_t *);
cachetory_status_t cachetory_mdelete_async(cachetory_t, cachetory_queue_t, uint64_t,
                                           const cachetory_bytes_t *, size_t, cachetory_error_t *);
cachetory_status_t cachetory_clear_async(cachetory_t, cachetory_queue_t, uint64_t,
                                         cachetory_error_t *);

/* The members, in order and with their types: positional initialisers of anything else warn or do not compile. */
static char byte = 'x';
extern const cachetory_t handle;
extern const cachetory_item_t item;
extern const cachetory_value_t value;
extern const cachetory_values_t values;
extern const cachetory_queue_t queue;
extern const cachetory_completion_t completion;
const cachetory_t handle = {(uint64_t)1 << 63};
const cachetory_item_t item = {{&byte, sizeof byte}, {&byte, CACHETORY_STRLEN}};
const cachetory_value_t value = {&byte, sizeof byte, &byte};
const cachetory_values_t values = {&item.key, 1, &byte};
const cachetory_queue_t queue = {(uint64_t)1 << 63};
const cachetory_completion_t completion = {
    (uint64_t)1 << 63, CACHETORY_ERR_CANCELLED, CACHETORY_ERROR_RETRYABLE, {&byte, sizeof byte, &byte},
    {&item.key, 1, &byte}, (uint64_t)1 << 63, &byte, &byte, {0, 0, 0, 0, (uint64_t)1 << 63},
};
