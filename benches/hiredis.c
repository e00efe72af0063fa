/* hiredis's synchronous calls. */
#include "peer_hiredis.h"

#include "peer.h"
