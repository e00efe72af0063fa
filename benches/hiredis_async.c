/* hiredis's asynchronous calls, on libevent. */
#include "peer_hiredis.h"

#include <async.h>

#include "peer_async.h"
