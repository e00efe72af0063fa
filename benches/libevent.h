/* What connects hiredis's and libvalkey's asynchronous calls to libevent. They have it in headers of their own, which
 * their packages leave out; this does the same with two events, not one that is made anew whenever it changes. */
#ifndef BENCH_LIBEVENT_H
#define BENCH_LIBEVENT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>

struct events {
    struct event *read;
    struct event *write;
    bool reading;
    bool writing;
};

static void events_add_read(void *opaque)
{
    struct events *it = opaque;
    if (!it->reading)
        event_add(it->read, NULL);
    it->reading = true;
}

static void events_del_read(void *opaque)
{
    struct events *it = opaque;
    if (it->reading)
        event_del(it->read);
    it->reading = false;
}

static void events_add_write(void *opaque)
{
    struct events *it = opaque;
    if (!it->writing)
        event_add(it->write, NULL);
    it->writing = true;
}

static void events_del_write(void *opaque)
{
    struct events *it = opaque;
    if (it->writing)
        event_del(it->write);
    it->writing = false;
}

static void events_free(void *opaque)
{
    struct events *it = opaque;
    event_free(it->read);
    event_free(it->write);
    free(it);
}

static struct events *events_new(struct event_base *base, int fd, event_callback_fn readable,
                                 event_callback_fn writable, void *context)
{
    struct events *it = calloc(1, sizeof *it);
    it->read = event_new(base, fd, EV_READ | EV_PERSIST, readable, context);
    it->write = event_new(base, fd, EV_WRITE | EV_PERSIST, writable, context);
    return it;
}

#endif
