/* hiredis's names, for what its driver has in common with libvalkey's: peer.h and peer_async.h. */
#include <hiredis.h>
#ifdef BENCH_WITH_TLS
#include <hiredis_ssl.h>
#endif

#define PEER(name) redis##name
#define PEER_CODE(name) REDIS_##name
#define PEER_TLS(before, after) redis##before##SSL##after
#define PEER_VERSION "hiredis " BENCH_VERSION(HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH)
