/*
 * cachetory: a cache over Redis, Valkey or the process's own memory.
 *
 * Generated from the Rust source by cbindgen. To change it, change the source and run `make header`.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */

#ifndef CACHETORY_H
#define CACHETORY_H


#include <stddef.h>
#include <stdint.h>

/*
 * Conventions
 *
 * Language. C99 or later, or C++11 or later.
 *
 * Handles. A handle (cachetory_t, cachetory_queue_t) is a small value with a number in it, not an address. {0} is no
 * handle: closing it is OK. Anything else on it, and anything at all on a stale, closed or made-up handle, gives
 * CACHETORY_ERR_CLOSED. It is never undefined behaviour, and neither is a second close, or a close while other threads
 * are inside a call: those calls finish or return CACHETORY_ERR_CLOSED.
 *
 * Threads. Any thread may use any handle at any time; one cache is meant to be shared by the whole process. A struct of
 * the caller's (a value, an error) is the caller's to guard.
 *
 * Bytes are a pointer and a length; keys and values may hold any byte. (NULL, 0) is empty, (NULL, n) an argument error.
 * The length of a key, also in an array of keys, may be CACHETORY_STRLEN: "NUL-terminated, measure it". Any other
 * length or total above PTRDIFF_MAX, and any single key or value above 512 MiB, is an argument error.
 *
 * Outputs come after the inputs, the error last. They are set empty first and filled only on success. A NULL `error` is
 * allowed everywhere; any other NULL output is an argument error unless its function says that it may be NULL.
 *
 * Ownership. No pointer that is passed in is kept after the call returns, and the library never calls back. Values,
 * batches and completions belong to the caller until freed, and outlive the cache and the queue that they came from.
 *
 * Errors. A return value >= 0 is an answer (a miss is an answer), < 0 an error. Where an error is given, every call
 * sets it: `status` equals the returned value, and on success the message is empty. It is the caller's own struct:
 * nothing to free, nothing tied to a thread. No message ever shows a password. Where a handle is closed and an argument
 * is bad as well, either may be reported.
 *
 *   CACHETORY_ERROR_RETRYABLE: trying the same call again later may succeed. It goes with CACHETORY_ERR_CONNECT,
 *   _TIMEOUT, _IO, _BUSY, _NO_MEMORY, _DOWN, and with _SERVER where the server spoke of its own state: LOADING,
 *   READONLY, OOM, MASTERDOWN, CLUSTERDOWN, TRYAGAIN, NOREPLICAS, BUSY or MISCONF.
 *
 *   CACHETORY_ERROR_MAYBE_APPLIED: a write may have been applied, wholly or partly, or may still be, even after later
 *   calls were answered. Once a write may have reached the server only reads are tried again.
 *
 * Deadlines. One deadline covers a whole call: waiting for a connection, name resolution, connect, TLS, authentication,
 * write and reply. It is the URL option `socket_timeout`, 5 seconds unless given.
 *
 * A server that is down costs one deadline, not one a call. When a call's deadline has passed without a byte from the
 * server, or it could not be dialled, the library itself dials afresh and asks PING; calls that come meanwhile wait for
 * what that comes to. If the server does not answer it is down: calls fail at once with CACHETORY_ERR_DOWN, and those
 * that wait are let go. The library asks again, after 20 ms at first and then every 1.2 s at most; the first answer
 * ends it. A refused connection is CACHETORY_ERR_CONNECT, and makes no server down. URL option `fail_fast`.
 *
 * Times are int64_t milliseconds. CACHETORY_NO_EXPIRY means "never".
 *
 * Fork. After fork() the child's first call makes its own connections; parent and child never share a socket. In the
 * child an inherited memory:// cache is empty, and an inherited queue is closed: its calls stay the parent's. A child
 * may close the descriptors that it inherited, and open others in their place: those are left alone. On Linux 4.14 or
 * later that holds for _Fork() and a bare clone(2) too.
 *
 * The process. The library never writes to stdout or stderr, installs no signal handler and never dies of SIGPIPE; its
 * own threads block all signals. Its descriptors are 3 or above (but for what the C library's resolver opens), closed
 * on exec. A bug that is caught inside it is CACHETORY_ERR_INTERNAL.
 *
 * The calling thread. `errno` is what it was when a call returns. A thread cannot be cancelled (pthread_cancel) inside
 * a call that may block or that opens or closes anything; afterwards it can, if it could before. Who waits in
 * cachetory_queue_wait is ended by cachetory_queue_close or by a completion.
 */

/*
 * Asynchronous calls: submit and reap
 *
 * Each call on a cache but open and close has an asynchronous twin, cachetory_get_async and so on. It takes a queue and
 * a tag, a number of the caller's own, and the inputs of the synchronous call. It copies them, returns at once, and
 * never blocks on the network. The result comes to the queue as a completion that carries the tag.
 *
 *   cachetory_queue_open           a queue. Any number of caches and threads may use one.
 *   cachetory_get_async, ...       submit calls. From 0 up: accepted. Below 0: refused, nothing will come.
 *   cachetory_queue_wait           take completions, one or many at a time, as soon as there are any; or
 *   cachetory_queue_fd             let an event loop tell when there are some, then take them with a timeout of 0.
 *   cachetory_completion_free      release each.
 *   cachetory_queue_close          the end.
 *
 * Exactly once. An accepted call completes once and only once: with the answer, an error, its deadline, a cancel,
 * whatever becomes of the connection or the cache. Only closing its queue ends it without a completion. Deadlines hold
 * also while nobody waits on the queue. Closing a cache completes its outstanding calls with CACHETORY_ERR_CANCELLED.
 *
 * Order. Completions need not come in the order of the submissions. A call that is submitted after the completion of
 * another was taken sees what that one did.
 *
 * Back-pressure. When as many calls of a cache are outstanding as the URL option `max_pending` says, 65536 unless
 * given, submissions fail with CACHETORY_ERR_BUSY. A call is outstanding until its completion is there.
 *
 * Mixing. One cache may be used by both kinds of call at the same time.
 */

/* The length of a key that is NUL-terminated: the library measures it. */
#ifdef __cplusplus
#define CACHETORY_STRLEN SIZE_MAX
#else
#define CACHETORY_STRLEN ((size_t)-1)
#endif

// The call was carried out.
#define CACHETORY_OK 0

// There is no such key: `get`, `expire_in`, `expire_at`, `delete`.
#define CACHETORY_NOT_FOUND 1

// `set` with `CACHETORY_SET_IF_NOT_EXISTS`: the key was there, and nothing was changed.
#define CACHETORY_NOT_STORED 2

// A NULL output, `(NULL, n)`, a ttl out of range, an unknown flag, a length that cannot be.
#define CACHETORY_ERR_INVALID_ARGUMENT -1

// A malformed URL, an unknown scheme, an unknown or bad option; the message names it.
#define CACHETORY_ERR_INVALID_URL -2

// The handle is closed, stale, or never was one.
#define CACHETORY_ERR_CLOSED -3

// The host cannot be resolved or connected to, or the server has no room for another client.
#define CACHETORY_ERR_CONNECT -4

// The TLS handshake failed or the certificate was refused; the message says which.
#define CACHETORY_ERR_TLS -5

// The server refused the credentials (AUTH, HELLO, NOAUTH, WRONGPASS) or the permission (NOPERM).
#define CACHETORY_ERR_AUTH -6

// The deadline of the call passed.
#define CACHETORY_ERR_TIMEOUT -7

// The connection broke under the call.
#define CACHETORY_ERR_IO -8

// The peer does not speak RESP.
#define CACHETORY_ERR_PROTOCOL -9

// The server answered with another error; its text is the message.
#define CACHETORY_ERR_SERVER -10

// This backend, this server or this build cannot do that.
#define CACHETORY_ERR_UNSUPPORTED -11

// Asynchronous calls: cancelled, or the cache was closed first.
#define CACHETORY_ERR_CANCELLED -12

// A bug in the library, caught before it could harm the process.
#define CACHETORY_ERR_INTERNAL -13

// Asynchronous calls: too many are outstanding.
#define CACHETORY_ERR_BUSY -14

// Memory, a thread or a descriptor could not be had.
#define CACHETORY_ERR_NO_MEMORY -15

// The server has not answered lately, which this library has checked. The call was not sent, or it was waiting and is
// let go (`CACHETORY_ERROR_MAYBE_APPLIED` where it had been sent). The library asks again by itself.
#define CACHETORY_ERR_DOWN -16

// The version of the header: MAJOR.MINOR.PATCH. cachetory_version() tells that of the library.
#define CACHETORY_VERSION_MAJOR 0

#define CACHETORY_VERSION_MINOR 1

#define CACHETORY_VERSION_PATCH 0

// A time to live, or a time, that never comes.
#define CACHETORY_NO_EXPIRY 9223372036854775807LL

// cachetory_set: only where the key is not there yet (SET … NX).
#define CACHETORY_SET_IF_NOT_EXISTS 1u

// cachetory_error_t.flags: trying the same call again later may succeed.
#define CACHETORY_ERROR_RETRYABLE 1u

// cachetory_error_t.flags: a write may have been applied, wholly or partly, or may still be, even after later calls
// were answered: it left this machine, in whole or in part, and no answer came back.
#define CACHETORY_ERROR_MAYBE_APPLIED 2u

// What a call came to: >= 0 is an answer, < 0 is an error. One of the CACHETORY_ constants above; the list only grows.
typedef int32_t cachetory_status_t;

// A cache. The number is not an address; {0} is no handle.
typedef struct cachetory_t {
  uint64_t id;
} cachetory_t;

// How a call went. The caller's own: nothing in it needs to be released.
typedef struct cachetory_error_t {
  // The same as the call's return value.
  cachetory_status_t status;
  // CACHETORY_ERROR_RETRYABLE | CACHETORY_ERROR_MAYBE_APPLIED
  uint32_t flags;
  // NUL-terminated UTF-8, cut at a character boundary. Empty on success, when only message[0] is set.
  char message[504];
} cachetory_error_t;

// A value that belongs to the caller, who releases it with cachetory_value_free. Start from {0}.
typedef struct cachetory_value_t {
  // Never NULL for a hit, even when len == 0; data[len] == 0.
  const char *data;
  size_t len;
  // Opaque; do not touch.
  void *owner;
} cachetory_value_t;

// Bytes that belong to somebody else. A key's len may be CACHETORY_STRLEN.
typedef struct cachetory_bytes_t {
  const char *data;
  size_t len;
} cachetory_bytes_t;

// The answers to a batch of keys. They belong to the caller, who releases them as one with cachetory_values_free.
// Start from {0}.
typedef struct cachetory_values_t {
  // items[i] answers keys[i]. A miss has data == NULL; a hit is followed by a NUL that len does not count.
  const cachetory_bytes_t *items;
  size_t len;
  // Opaque; do not touch.
  void *owner;
} cachetory_values_t;

// A key and its value, for cachetory_mset.
typedef struct cachetory_item_t {
  cachetory_bytes_t key;
  cachetory_bytes_t value;
} cachetory_item_t;

// A queue of completed asynchronous calls. The number is not an address; {0} is no handle.
typedef struct cachetory_queue_t {
  uint64_t id;
} cachetory_queue_t;

// What became of an asynchronous call. It belongs to the caller, who releases it with cachetory_completion_free.
//
// `value` and `values` are owned on their own: release them, or move them out by zeroing the member, before
// cachetory_completion_free, which releases what is left. Up to 16 values below 1000 bytes that came together share
// one buffer, which is freed when the last of them is released.
typedef struct cachetory_completion_t {
  // The caller's own, from the submission.
  uint64_t tag;
  // What the synchronous call would have returned.
  cachetory_status_t status;
  // CACHETORY_ERROR_RETRYABLE | CACHETORY_ERROR_MAYBE_APPLIED
  uint32_t flags;
  // cachetory_get_async, on CACHETORY_OK. Else empty.
  cachetory_value_t value;
  // cachetory_mget_async, on CACHETORY_OK. Else empty.
  cachetory_values_t values;
  // cachetory_mdelete_async, on CACHETORY_OK. Else 0.
  uint64_t deleted;
  // Where status < 0: why, NUL-terminated UTF-8. Else NULL. Released with the completion.
  const char *message;
  // Opaque; do not touch.
  void *owner;
  // Zero.
  uint64_t reserved[5];
} cachetory_completion_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens the cache that `url` names.
//
// Checks the URL and connects to nothing: the first call connects, so a program starts while its server is down
// (cachetory_ping tells). The URL is the whole configuration; README.md lists its schemes and options.
//
// `out` receives a handle for any number of threads; end it with cachetory_close. `url` is not kept.
// Never blocks. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`url` or `out` is NULL), CACHETORY_ERR_INVALID_URL (the
// message names what is wrong), CACHETORY_ERR_UNSUPPORTED (a scheme this version knows but cannot serve),
// CACHETORY_ERR_NO_MEMORY.
cachetory_status_t cachetory_open_url(const char *url,
                                      cachetory_t *out,
                                      cachetory_error_t *error);

// Ends a handle and frees what it holds.
//
// Waits for nobody: calls of other threads that are inside the cache finish, or return CACHETORY_ERR_CLOSED. What was
// handed out (values, batches) stays the caller's. Closing {0} does nothing. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (closed already, or never opened).
cachetory_status_t cachetory_close(cachetory_t cache);

// Asks the server whether it is there and lets this client in (PING).
//
// Blocks up to the deadline of a call (URL option `socket_timeout`). Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED,
// _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_ping(cachetory_t cache,
                                  cachetory_error_t *error);

// Gets the value of a key (GET).
//
// On CACHETORY_OK `out` holds the value and belongs to the caller: release it with cachetory_value_free. Otherwise it
// is empty. `key` is not kept; `key_len` may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Tried once more when its connection breaks. Any thread.
//
// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT,
// _IO, _PROTOCOL, _SERVER (the key holds another type than a string, say), _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_get(cachetory_t cache,
                                 const void *key,
                                 size_t key_len,
                                 cachetory_value_t *out,
                                 cachetory_error_t *error);

// Gets the values of `count` keys at once (MGET): on one server, an atomic snapshot.
//
// On CACHETORY_OK `out->items[i]` answers `keys[i]` (a miss has `data == NULL`; a key given twice is answered twice)
// and `out` belongs to the caller: release it with cachetory_values_free. Otherwise it is empty. With `count` 0 it is
// empty and the answer OK. `keys` is not kept; each key's len may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Tried once more when its connection breaks. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL,
// _SERVER (an error in the place of one of the answers, as proxies have it, is the call's), _UNSUPPORTED, _NO_MEMORY,
// _DOWN, _INTERNAL.
cachetory_status_t cachetory_mget(cachetory_t cache,
                                  const cachetory_bytes_t *keys,
                                  size_t count,
                                  cachetory_values_t *out,
                                  cachetory_error_t *error);

// Sets the value of a key (SET), to live for `ttl_ms` milliseconds (PX; at least 1), or for ever with
// CACHETORY_NO_EXPIRY: then an earlier expiry is cleared.
//
// `flags`: 0, or CACHETORY_SET_IF_NOT_EXISTS (NX): nothing is changed where the key is there. Nothing is kept of what
// is passed in; `key_len` may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK, CACHETORY_NOT_STORED; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH,
// _TIMEOUT, _IO, _PROTOCOL, _SERVER (out of memory or a read-only replica, say: RETRYABLE), _UNSUPPORTED, _NO_MEMORY,
// _DOWN, _INTERNAL.
cachetory_status_t cachetory_set(cachetory_t cache,
                                 const void *key,
                                 size_t key_len,
                                 const void *value,
                                 size_t value_len,
                                 int64_t ttl_ms,
                                 uint32_t flags,
                                 cachetory_error_t *error);

// Sets `count` keys at once (MSET; with a ttl MULTI, SET … PX for each, EXEC): on one server all or nothing.
//
// Of a key given twice the last value wins. `ttl_ms` as for cachetory_set. `flags` must be 0. With `count` 0 the
// answer is OK. Nothing is kept of what is passed in; each key's len may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH (a server that refuses MULTI
// alone runs each SET by itself: MAYBE_APPLIED), _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY,
// _DOWN, _INTERNAL.
cachetory_status_t cachetory_mset(cachetory_t cache,
                                  const cachetory_item_t *items,
                                  size_t count,
                                  int64_t ttl_ms,
                                  uint32_t flags,
                                  cachetory_error_t *error);

// Has a key expire `ttl_ms` milliseconds from now (PEXPIRE), or never with CACHETORY_NO_EXPIRY (PERSIST and EXISTS in
// one write).
//
// With 0 or less the key is gone at once, and the answer is still OK. `key` is not kept; `key_len` may be
// CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT (the ttl ends after the last int64_t
// millisecond, say), _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY,
// _DOWN, _INTERNAL.
cachetory_status_t cachetory_expire_in(cachetory_t cache,
                                       const void *key,
                                       size_t key_len,
                                       int64_t ttl_ms,
                                       cachetory_error_t *error);

// Has a key expire at `unix_ms` milliseconds after 1970-01-01 UTC (PEXPIREAT), or never with CACHETORY_NO_EXPIRY
// (PERSIST and EXISTS in one write).
//
// With a time in the past the key is gone at once, and the answer is still OK. `key` is not kept; `key_len` may be
// CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK, CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT,
// _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_expire_at(cachetory_t cache,
                                       const void *key,
                                       size_t key_len,
                                       int64_t unix_ms,
                                       cachetory_error_t *error);

// Deletes a key (DEL).
//
// `key` is not kept; `key_len` may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK (it was there), CACHETORY_NOT_FOUND; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS,
// _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_delete(cachetory_t cache,
                                    const void *key,
                                    size_t key_len,
                                    cachetory_error_t *error);

// Deletes `count` keys at once (DEL).
//
// `deleted`, which may be NULL, receives how many of them were there. With `count` 0 that is 0 and the answer OK.
// `keys` is not kept; each key's len may be CACHETORY_STRLEN.
// Blocks up to the deadline of a call. Never sent twice: see CACHETORY_ERROR_MAYBE_APPLIED. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL,
// _SERVER, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_mdelete(cachetory_t cache,
                                     const cachetory_bytes_t *keys,
                                     size_t count,
                                     uint64_t *deleted,
                                     cachetory_error_t *error);

// Deletes every key of the cache's database (FLUSHDB ASYNC, or FLUSHDB where that is refused); with the URL option
// `prefix` only the keys that start with it (SCAN and UNLINK, or DEL where that is unknown), which is not atomic: keys
// set meanwhile may stay.
//
// Blocks up to the deadline of a call, which with a `prefix` holds for each round trip. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _CONNECT, _TLS, _AUTH, _TIMEOUT, _IO, _PROTOCOL, _SERVER, _UNSUPPORTED,
// _NO_MEMORY, _DOWN, _INTERNAL; with MAYBE_APPLIED once the first keys may be gone.
cachetory_status_t cachetory_clear(cachetory_t cache,
                                   cachetory_error_t *error);

// Releases a value and empties the struct, so that a second call does nothing; NULL does nothing. Any thread, also
// after the cache was closed.
void cachetory_value_free(cachetory_value_t *value);

// Releases a batch and empties the struct, so that a second call does nothing; NULL does nothing. Any thread, also
// after the cache was closed.
void cachetory_values_free(cachetory_values_t *values);

// The name of a status, such as "CACHETORY_OK"; never NULL, also for a number that is no status. Static: not to be
// released. Any thread.
const char *cachetory_status_name(cachetory_status_t status);

// The version of the library, such as "0.1.0". Static: not to be released. Any thread.
const char *cachetory_version(void);

// Opens a queue that asynchronous calls report to. It takes one descriptor.
//
// `out` receives a handle for any number of threads and caches; end it with cachetory_queue_close. Never blocks. Any
// thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`out` is NULL), CACHETORY_ERR_NO_MEMORY.
cachetory_status_t cachetory_queue_open(cachetory_queue_t *out,
                                        cachetory_error_t *error);

// Ends a queue: cancels its outstanding calls and releases the completions that nobody has taken. None of its tags is
// reported any more. A write that was sent before may still be applied.
//
// Threads in cachetory_queue_wait return CACHETORY_ERR_CLOSED. The descriptor is closed: take it out of a poll set
// before. Its duplicates become readable and stay so. Completions that were taken stay the caller's. Closing {0} does
// nothing. Never blocks. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (closed already, never opened, or inherited from the parent process).
cachetory_status_t cachetory_queue_close(cachetory_queue_t queue);

// The descriptor that tells when there is something to do for a queue: for poll(2), epoll(7) and event loops.
//
// It is readable while cachetory_queue_wait has something to do: completions to hand out, or input, output or a
// deadline to see to. So the loop's own thread drives its calls. It waits on the descriptor with its others, and when
// that is readable it calls cachetory_queue_wait with a `timeout_ms` of 0, which may well hand out nothing (a `*count`
// of 0). A loop that is busy, or does not come, delays its calls by some 20 ms; then the library's I/O thread sees to
// them.
//
// An edge-triggered poller that calls cachetory_queue_wait until `*count` is 0 misses nothing. Several threads may
// poll it. It is an epoll instance that holds no other, non-blocking and closed on exec. It is the queue's: poll it,
// or a duplicate (F_DUPFD_CLOEXEC), without EPOLLEXCLUSIVE, and never read, write or close it. Every call gives the
// same descriptor. Never blocks. Any thread.
//
// Returns the descriptor; -1 where there is no such queue, none is to be had, or the queue is the parent process's.
int cachetory_queue_fd(cachetory_queue_t queue);

// Takes completions out of a queue, up to `capacity` of those that are there, and waits up to `timeout_ms` while there
// are none: 0 does not wait, CACHETORY_NO_EXPIRY waits for ever.
//
// A thread that waits alone drives the I/O of its calls itself meanwhile. With a timeout of 0, on a queue whose
// descriptor somebody has asked for, it does what I/O there is to do, a mebibyte or a millisecond of it at most; if
// anything is left, the descriptor is readable anew.
//
// `*count` receives how many were written to `out`, whose further elements stay as they were; each of them belongs to
// the caller: release it with cachetory_completion_free. Nothing in time is CACHETORY_OK and a `*count` of 0. On a
// failure no completion is taken. Several threads may wait on one queue: each completion goes to one of them.
//
// Blocks up to `timeout_ms`. Any thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT (`out` or `count` is NULL, `capacity` is 0, `timeout_ms` is
// negative), CACHETORY_ERR_CLOSED (also while it waits), _INTERNAL.
cachetory_status_t cachetory_queue_wait(cachetory_queue_t queue,
                                        cachetory_completion_t *out,
                                        size_t capacity,
                                        int64_t timeout_ms,
                                        size_t *count,
                                        cachetory_error_t *error);

// Cancels every outstanding call with that tag: each completes at once, with CACHETORY_ERR_CANCELLED. Calls that have
// completed stay as they are, taken or not.
//
// A write that had been sent completes with CACHETORY_ERROR_MAYBE_APPLIED; one without that flag is never sent. Never
// blocks. Any thread.
//
// Returns CACHETORY_OK, CACHETORY_NOT_FOUND (no outstanding call has that tag); CACHETORY_ERR_CLOSED, _NO_MEMORY,
// _INTERNAL.
cachetory_status_t cachetory_queue_cancel(cachetory_queue_t queue,
                                          uint64_t tag,
                                          cachetory_error_t *error);

// Releases a completion, with the value or batch that is still in it, and empties the struct, so that a second call
// does nothing; NULL does nothing. Any thread, also after the queue or the cache was closed.
void cachetory_completion_free(cachetory_completion_t *completion);

// Submits a cachetory_ping.
//
// What holds for every cachetory_*_async call: with CACHETORY_OK the call is accepted, and its completion comes to
// `queue`, with this `tag` (any number; more calls may have the same) and the status that cachetory_ping would have
// returned. Otherwise nothing ever comes. Nothing is kept of what is passed in: it is copied. Never blocks. Any
// thread.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED (the cache or the queue), _BUSY (`max_pending` calls of the cache are
// outstanding: let some complete, and try again), _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_ping_async(cachetory_t cache,
                                        cachetory_queue_t queue,
                                        uint64_t tag,
                                        cachetory_error_t *error);

// Submits a cachetory_get. See cachetory_ping_async.
//
// On CACHETORY_OK the completion's `value` is the value; CACHETORY_NOT_FOUND has none. `key_len` may be
// CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_get_async(cachetory_t cache,
                                       cachetory_queue_t queue,
                                       uint64_t tag,
                                       const void *key,
                                       size_t key_len,
                                       cachetory_error_t *error);

// Submits a cachetory_mget. See cachetory_ping_async.
//
// On CACHETORY_OK the completion's `values` are the answers; with `count` 0 they are empty. Each key's len may be
// CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_mget_async(cachetory_t cache,
                                        cachetory_queue_t queue,
                                        uint64_t tag,
                                        const cachetory_bytes_t *keys,
                                        size_t count,
                                        cachetory_error_t *error);

// Submits a cachetory_set. See cachetory_ping_async.
//
// The completion's status is CACHETORY_OK, CACHETORY_NOT_STORED or an error. `key_len` may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_set_async(cachetory_t cache,
                                       cachetory_queue_t queue,
                                       uint64_t tag,
                                       const void *key,
                                       size_t key_len,
                                       const void *value,
                                       size_t value_len,
                                       int64_t ttl_ms,
                                       uint32_t flags,
                                       cachetory_error_t *error);

// Submits a cachetory_mset. See cachetory_ping_async.
//
// `flags` must be 0. Each key's len may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_mset_async(cachetory_t cache,
                                        cachetory_queue_t queue,
                                        uint64_t tag,
                                        const cachetory_item_t *items,
                                        size_t count,
                                        int64_t ttl_ms,
                                        uint32_t flags,
                                        cachetory_error_t *error);

// Submits a cachetory_expire_in. See cachetory_ping_async.
//
// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_expire_in_async(cachetory_t cache,
                                             cachetory_queue_t queue,
                                             uint64_t tag,
                                             const void *key,
                                             size_t key_len,
                                             int64_t ttl_ms,
                                             cachetory_error_t *error);

// Submits a cachetory_expire_at. See cachetory_ping_async.
//
// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_expire_at_async(cachetory_t cache,
                                             cachetory_queue_t queue,
                                             uint64_t tag,
                                             const void *key,
                                             size_t key_len,
                                             int64_t unix_ms,
                                             cachetory_error_t *error);

// Submits a cachetory_delete. See cachetory_ping_async.
//
// The completion's status is CACHETORY_OK, CACHETORY_NOT_FOUND or an error. `key_len` may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_delete_async(cachetory_t cache,
                                          cachetory_queue_t queue,
                                          uint64_t tag,
                                          const void *key,
                                          size_t key_len,
                                          cachetory_error_t *error);

// Submits a cachetory_mdelete. See cachetory_ping_async.
//
// On CACHETORY_OK the completion's `deleted` is how many keys were there. Each key's len may be CACHETORY_STRLEN.
//
// Returns CACHETORY_OK; CACHETORY_ERR_INVALID_ARGUMENT, _CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_mdelete_async(cachetory_t cache,
                                           cachetory_queue_t queue,
                                           uint64_t tag,
                                           const cachetory_bytes_t *keys,
                                           size_t count,
                                           cachetory_error_t *error);

// Submits a cachetory_clear. See cachetory_ping_async.
//
// With the URL option `prefix` each round trip has the deadline to itself, as in cachetory_clear.
//
// Returns CACHETORY_OK; CACHETORY_ERR_CLOSED, _BUSY, _UNSUPPORTED, _NO_MEMORY, _DOWN, _INTERNAL.
cachetory_status_t cachetory_clear_async(cachetory_t cache,
                                         cachetory_queue_t queue,
                                         uint64_t tag,
                                         cachetory_error_t *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CACHETORY_H */
