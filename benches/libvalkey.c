/* libvalkey's synchronous calls. */
#include "peer_libvalkey.h"

#include "peer.h"
