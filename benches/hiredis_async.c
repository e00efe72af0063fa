/* hiredis's asynchronous calls, on libevent. */
#include <async.h>
#include <hiredis.h>

#define TEXT_OF(number) #number
#define VERSION(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)
#define PEER_VERSION "hiredis " VERSION(HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH)

enum { PEER_STRING = REDIS_REPLY_STRING };

typedef redisAsyncContext peer_context;
typedef redisReply peer_reply;

static peer_context *peer_connect(const char *host, int port)
{
    return redisAsyncConnect(host, port);
}

static peer_context *peer_connect_unix(const char *path)
{
    return redisAsyncConnectUnix(path);
}

static void peer_free(peer_context *context)
{
    redisAsyncFree(context);
}

static void peer_handle_read(peer_context *context)
{
    redisAsyncHandleRead(context);
}

static void peer_handle_write(peer_context *context)
{
    redisAsyncHandleWrite(context);
}

static int peer_command(peer_context *context, redisCallbackFn *answered, void *place, int count, const char **words,
                        const size_t *lengths)
{
    return redisAsyncCommandArgv(context, answered, place, count, words, lengths);
}

#include "peer_async.h"
