/* HTTP/1.1 as far as the servers beside this file speak it: requests out of bytes, and the heads of answers. Nothing
 * here is about the cache, and nothing here does any input or output.
 */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What a client may make a server keep. */
enum { HTTP_MAX_HEAD = 8 * 1024, HTTP_MAX_BODY = 1024 * 1024, HTTP_MAX_ANSWER_HEAD = 256 };

typedef enum http_method_t { HTTP_GET, HTTP_HEAD, HTTP_PUT, HTTP_DELETE } http_method_t;

typedef struct http_request_t {
    http_method_t method;
    char *key; /* the path after its slash, with %41 decoded: any bytes, not terminated */
    size_t key_len;
    const char *body;
    size_t body_len;
    size_t size;     /* of the whole request; 0 as long as its head is not there */
    bool keep_alive; /* whether the client wants to go on after the answer */
    bool continued;  /* it was told to send the body */
} http_request_t;

enum { HTTP_MORE = 0, HTTP_CONTINUE = 100, HTTP_READY = 200 };

/* Digits and nothing else, up to `most`. */
static inline bool http_number(const char *text, size_t len, size_t most, size_t *number)
{
    *number = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        size_t digit = (size_t)(text[i] - '0');
        if (*number > (most - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    return len > 0;
}

static inline bool http_is(const char *text, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

/* Whether a list such as "close, te" has the word in it. */
static inline bool http_lists(const char *text, size_t len, const char *word)
{
    const char *end = text + len;
    while (text < end) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma != NULL ? comma : end, *next = comma != NULL ? comma + 1 : end;
        while (text < stop && (*text == ' ' || *text == '\t'))
            text++;
        while (text < stop && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        if (http_is(text, (size_t)(stop - text), word))
            return true;
        text = next;
    }
    return false;
}

static inline int http_hex(char digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0'
        : digit >= 'a' && digit <= 'f'  ? digit - 'a' + 10
        : digit >= 'A' && digit <= 'F'  ? digit - 'A' + 10
                                        : -1;
}

/* Decodes in place, which only ever gets shorter. */
static inline bool http_decode(char *text, size_t *len)
{
    size_t to = 0;
    for (size_t from = 0; from < *len; from++, to++) {
        text[to] = text[from];
        if (text[from] != '%')
            continue;
        if (*len - from < 3 || http_hex(text[from + 1]) < 0 || http_hex(text[from + 2]) < 0)
            return false;
        text[to] = (char)(http_hex(text[from + 1]) << 4 | http_hex(text[from + 2]));
        from += 2;
    }
    *len = to;
    return true;
}

/* "GET /key HTTP/1.1": 0, or the status to refuse it with. */
static inline int http_request_line(char *line, size_t len, http_request_t *request, bool *is_1_0)
{
    static const char *const methods[] = {"GET", "HEAD", "PUT", "DELETE"};
    char *path = memchr(line, ' ', len);
    if (path == NULL || path == line)
        return 400;
    size_t method = 0, method_len = (size_t)(path++ - line);
    while (method < 4 && (strlen(methods[method]) != method_len || memcmp(line, methods[method], method_len) != 0))
        method++;

    size_t rest = len - method_len - 1;
    char *version = memchr(path, ' ', rest);
    if (version == NULL || *path != '/')
        return 400;
    size_t path_len = (size_t)(version++ - path);
    if (rest - path_len - 1 != strlen("HTTP/1.1") || memcmp(version, "HTTP/", 5) != 0)
        return 400;
    if (memcmp(version, "HTTP/1.", 7) != 0 || version[7] < '0' || version[7] > '9')
        return 505;
    *is_1_0 = version[7] == '0';
    if (method == 4)
        return 405;

    char *query = memchr(path, '?', path_len);
    request->method = (http_method_t)method;
    request->key = path + 1;
    request->key_len = (query != NULL ? (size_t)(query - path) : path_len) - 1;
    return 0;
}

/* The lines of a head, from `at` to `end`, each with its line end: 0, or the status to refuse it with. */
static inline int http_head(char *at, const char *end, http_request_t *request, bool *expects)
{
    bool first = true, is_1_0 = false, has_length = false, close = false, keep_alive = false;
    int hosts = 0;
    *expects = false;
    for (char *next; at < end; at = next, first = false) {
        char *stop = memchr(at, '\r', (size_t)(end - at)); /* there is one, for the head ends with one */
        next = stop + 2;
        if (stop[1] != '\n')
            return 400;
        for (const char *c = at; c < stop; c++)
            if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
                return 400;
        if (first) {
            int refused = http_request_line(at, (size_t)(stop - at), request, &is_1_0);
            if (refused != 0)
                return refused;
            continue;
        }

        char *value = memchr(at, ':', (size_t)(stop - at));
        if (value == NULL || value == at || value[-1] == ' ' || value[-1] == '\t' || *at == ' ' || *at == '\t')
            return 400;
        size_t name_len = (size_t)(value++ - at);
        while (value < stop && (*value == ' ' || *value == '\t'))
            value++;
        while (value < stop && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        size_t value_len = (size_t)(stop - value), number;
        if (http_is(at, name_len, "Host")) {
            hosts++;
        } else if (http_is(at, name_len, "Content-Length")) {
            if (has_length || !http_number(value, value_len, (size_t)-1, &number))
                return 400; /* two lengths are a trick played on proxies */
            if (number > HTTP_MAX_BODY)
                return 413;
            has_length = true;
            request->body_len = number;
        } else if (http_is(at, name_len, "Transfer-Encoding")) {
            return 501;
        } else if (http_is(at, name_len, "Connection")) {
            close = close || http_lists(value, value_len, "close");
            keep_alive = keep_alive || http_lists(value, value_len, "keep-alive");
        } else if (http_is(at, name_len, "Expect")) {
            if (!http_is(value, value_len, "100-continue"))
                return 417;
            *expects = !is_1_0;
        }
    }
    if (hosts > 1 || (hosts == 0 && !is_1_0))
        return 400;
    request->keep_alive = !close && (!is_1_0 || keep_alive);
    return 0;
}

/* Reads what has arrived of a request, from its first byte on.
 *
 * HTTP_MORE: it goes on. HTTP_CONTINUE: it goes on once the client is told to (said once). HTTP_READY: here it is,
 * pointing into `data`. Anything else is the status to refuse it with; what comes after it could not be understood. The
 * caller empties the request ({0}) before its first byte. */
static inline int http_parse(char *data, size_t len, http_request_t *request)
{
    size_t start = 0, head = len < HTTP_MAX_HEAD ? len : HTTP_MAX_HEAD, end;
    while (head - start >= 2 && data[start] == '\r' && data[start + 1] == '\n')
        start += 2; /* empty lines before a request are ignored */
    for (end = start + 4; end <= head && memcmp(data + end - 4, "\r\n\r\n", 4) != 0; end++)
        ;
    if (end > head)
        return len < HTTP_MAX_HEAD ? HTTP_MORE : 431;

    bool expects;
    request->body_len = 0;
    int refused = http_head(data + start, data + end - 2, request, &expects);
    if (refused != 0)
        return refused;
    request->size = end + request->body_len;
    if (len < request->size) {
        if (!expects || request->continued || len > end)
            return HTTP_MORE;
        request->continued = true;
        return HTTP_CONTINUE;
    }
    request->body = data + end;
    /* The key last, for it is decoded where it lies, and until the request is whole all of it is read again. */
    return http_decode(request->key, &request->key_len) && request->key_len > 0 ? HTTP_READY : 400;
}

/* Writes an answer's head into `out`, which holds HTTP_MAX_ANSWER_HEAD bytes, and returns how long it is. `length` is
 * that of the body. */
static inline size_t http_answer(char *out, int status, size_t length, bool keep_alive)
{
    if (status == HTTP_CONTINUE)
        return (size_t)snprintf(out, HTTP_MAX_ANSWER_HEAD, "HTTP/1.1 100 Continue\r\n\r\n");
    const char *reason = status == 200 ? "OK"
        : status == 204                ? "No Content"
        : status == 400                ? "Bad Request"
        : status == 404                ? "Not Found"
        : status == 405                ? "Method Not Allowed"
        : status == 413                ? "Content Too Large"
        : status == 417                ? "Expectation Failed"
        : status == 431                ? "Request Header Fields Too Large"
        : status == 501                ? "Not Implemented"
        : status == 503                ? "Service Unavailable"
        : status == 504                ? "Gateway Timeout"
        : status == 505                ? "HTTP Version Not Supported"
                                       : "Unknown";
    int at = snprintf(out, HTTP_MAX_ANSWER_HEAD, "HTTP/1.1 %d %s\r\nConnection: %s\r\n%s", status, reason,
                      keep_alive ? "keep-alive" : "close",
                      status == 200       ? "Content-Type: application/octet-stream\r\n"
                          : status == 405 ? "Allow: GET, HEAD, PUT, DELETE\r\n"
                          : status == 503 ? "Retry-After: 1\r\n"
                                          : "");
    size_t room = HTTP_MAX_ANSWER_HEAD - (size_t)at;
    at += status == 204 ? snprintf(out + at, room, "\r\n")
                        : snprintf(out + at, room, "Content-Length: %zu\r\n\r\n", length);
    return (size_t)at;
}

/* What has arrived and was not read yet, for a loop that has no such buffer of its own. */
typedef struct http_buffer_t {
    char *data;
    size_t start, len, size;
} http_buffer_t;

static inline void http_drop(http_buffer_t *buffer, size_t len)
{
    buffer->start += len;
    buffer->len -= len;
    if (buffer->len > 0)
        return;
    buffer->start = 0;
    if (buffer->size > HTTP_MAX_HEAD) {
        free(buffer->data); /* a large request leaves nothing behind */
        *buffer = (http_buffer_t){0};
    }
}

/* Where the next bytes go and for how many there is room: for a request of `size` bytes, or for a head as long as that
 * is not known. NULL: it is full, or there is no memory. */
static inline char *http_room(http_buffer_t *buffer, size_t size, size_t *room)
{
    size_t most = size > HTTP_MAX_HEAD ? size : HTTP_MAX_HEAD;
    *room = 0;
    if (buffer->start > 0) {
        memmove(buffer->data, buffer->data + buffer->start, buffer->len);
        buffer->start = 0;
    }
    if (buffer->len == buffer->size && buffer->size < most) {
        size_t larger = size > buffer->size ? size : buffer->size > 0 ? buffer->size * 2 : 1024;
        larger = larger < most ? larger : most;
        char *data = realloc(buffer->data, larger);
        if (data == NULL)
            return NULL;
        buffer->data = data;
        buffer->size = larger;
    }
    *room = buffer->size - buffer->len;
    return *room > 0 ? buffer->data + buffer->len : NULL;
}

#endif
