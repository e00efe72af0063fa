/* libvalkey's asynchronous calls, on libevent. */
#include <valkey/async.h>
#include <valkey/valkey.h>

#define TEXT_OF(number) #number
#define VERSION(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)
#define PEER_VERSION "libvalkey " VERSION(LIBVALKEY_VERSION_MAJOR, LIBVALKEY_VERSION_MINOR, LIBVALKEY_VERSION_PATCH)

enum { PEER_STRING = VALKEY_REPLY_STRING };

typedef valkeyAsyncContext peer_context;
typedef valkeyReply peer_reply;

static peer_context *peer_connect(const char *host, int port)
{
    return valkeyAsyncConnect(host, port);
}

static peer_context *peer_connect_unix(const char *path)
{
    return valkeyAsyncConnectUnix(path);
}

static void peer_free(peer_context *context)
{
    valkeyAsyncFree(context);
}

static void peer_handle_read(peer_context *context)
{
    valkeyAsyncHandleRead(context);
}

static void peer_handle_write(peer_context *context)
{
    valkeyAsyncHandleWrite(context);
}

static int peer_command(peer_context *context, valkeyCallbackFn *answered, void *place, int count, const char **words,
                        const size_t *lengths)
{
    return valkeyAsyncCommandArgv(context, answered, place, count, words, lengths);
}

#include "peer_async.h"
