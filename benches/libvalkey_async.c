/* libvalkey's asynchronous calls, on libevent. */
#include "peer_libvalkey.h"

#include <valkey/async.h>

#include "peer_async.h"
