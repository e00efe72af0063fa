/* libvalkey's names, for what its driver has in common with hiredis's: peer.h and peer_async.h. */
#include <valkey/valkey.h>
#ifdef BENCH_WITH_TLS
#include <valkey/tls.h>
#endif

#define PEER(name) valkey##name
#define PEER_CODE(name) VALKEY_##name
#define PEER_TLS(before, after) valkey##before##TLS##after
#define PEER_VERSION                                                                                                   \
    "libvalkey " BENCH_VERSION(LIBVALKEY_VERSION_MAJOR, LIBVALKEY_VERSION_MINOR, LIBVALKEY_VERSION_PATCH)
