package main

// #include <cachetory.h>
import "C"

import (
	"context"
	"fmt"
	"sync"
)

// Async is a cache whose calls hold no thread while they wait. A goroutine inside a synchronous call occupies a thread
// of the operating system until the answer is there; here one goroutine waits for the answers to all of them.
type Async struct {
	cache Cache
	queue C.cachetory_queue_t
	ended chan struct{}

	mutex sync.Mutex
	calls map[C.uint64_t]chan<- answer // by tag
	last  C.uint64_t
}

// answer is a completion in Go's own memory.
type answer struct {
	value []byte
	err   error
}

func NewAsync(cache Cache) (*Async, error) {
	a := &Async{cache: cache, ended: make(chan struct{}), calls: make(map[C.uint64_t]chan<- answer)}
	var e C.cachetory_error_t
	if err := check(C.cachetory_queue_open(&a.queue, &e), &e); err != nil {
		return nil, err
	}
	go a.reap()
	return a, nil
}

// Close cancels what is outstanding.
func (a *Async) Close() {
	C.cachetory_queue_close(a.queue)
	<-a.ended
}

// reap takes completions, many at a time, until the queue is closed.
func (a *Async) reap() {
	defer close(a.ended)
	completions := make([]C.cachetory_completion_t, 64)
	for {
		var count C.size_t
		var e C.cachetory_error_t
		status := C.cachetory_queue_wait(a.queue, &completions[0], 64, C.CACHETORY_NO_EXPIRY, &count, &e)
		if err := check(status, &e); err != nil {
			a.giveUp(err)
			return
		}
		for i := range completions[:count] {
			a.complete(&completions[i])
			C.cachetory_completion_free(&completions[i])
		}
	}
}

func (a *Async) complete(completion *C.cachetory_completion_t) {
	var got answer
	if completion.status < 0 {
		got.err = &Error{
			Status:       int(completion.status),
			Retryable:    completion.flags&C.CACHETORY_ERROR_RETRYABLE != 0,
			MaybeApplied: completion.flags&C.CACHETORY_ERROR_MAYBE_APPLIED != 0,
			Message:      C.GoString(completion.message),
		}
	} else if completion.value.data != nil {
		got.value = copied(completion.value.data, completion.value.len)
	}
	a.leave(completion.tag) <- got // which has room for it
}

// giveUp answers those whose calls ended with the queue, for which there is no completion.
func (a *Async) giveUp(err error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for tag, waiting := range a.calls {
		delete(a.calls, tag)
		waiting <- answer{err: err}
	}
}

// enter is before the submission, for the completion may come before that returns.
func (a *Async) enter() (C.uint64_t, <-chan answer) {
	waiting := make(chan answer, 1)
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.last++ // never used twice, so that no late completion meets another call
	a.calls[a.last] = waiting
	return a.last, waiting
}

func (a *Async) leave(tag C.uint64_t) chan<- answer {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	waiting := a.calls[tag]
	delete(a.calls, tag)
	return waiting
}

// call submits and waits, without a thread. A submission that fails is not completed; with more calls than max_pending
// outstanding that is CACHETORY_ERR_BUSY, which is retryable.
func (a *Async) call(
	ctx context.Context,
	submit func(C.uint64_t, *C.cachetory_error_t) C.cachetory_status_t,
) ([]byte, error) {
	tag, waiting := a.enter()
	var e C.cachetory_error_t
	if err := check(submit(tag, &e), &e); err != nil {
		a.leave(tag)
		return nil, err
	}
	select {
	case got := <-waiting:
		return got.value, got.err
	case <-ctx.Done():
		// Completes it at once, unless that has happened already; in either case there is an answer to fetch.
		C.cachetory_queue_cancel(a.queue, tag, nil)
		<-waiting
		return nil, ctx.Err()
	}
}

func (a *Async) Set(ctx context.Context, key, value []byte, ttlMilliseconds int64) error {
	_, err := a.call(ctx, func(tag C.uint64_t, e *C.cachetory_error_t) C.cachetory_status_t {
		return C.cachetory_set_async(a.cache.handle, a.queue, tag, pointer(key), C.size_t(len(key)), pointer(value),
			C.size_t(len(value)), C.int64_t(ttlMilliseconds), 0, e)
	})
	return err
}

// Get answers nil for a key that is not there; an empty value is not nil.
func (a *Async) Get(ctx context.Context, key []byte) ([]byte, error) {
	return a.call(ctx, func(tag C.uint64_t, e *C.cachetory_error_t) C.cachetory_status_t {
		return C.cachetory_get_async(a.cache.handle, a.queue, tag, pointer(key), C.size_t(len(key)), e)
	})
}

func (a *Async) Delete(ctx context.Context, key []byte) error {
	_, err := a.call(ctx, func(tag C.uint64_t, e *C.cachetory_error_t) C.cachetory_status_t {
		return C.cachetory_delete_async(a.cache.handle, a.queue, tag, pointer(key), C.size_t(len(key)), e)
	})
	return err
}

func (a *Async) roundTrip(ctx context.Context, number int) error {
	key, value := []byte(fmt.Sprintf("example:async:%d", number)), fmt.Sprintf("value %d", number)
	if err := a.Set(ctx, key, []byte(value), 60*1000); err != nil {
		return err
	}
	got, err := a.Get(ctx, key)
	if err == nil && string(got) != value {
		err = fmt.Errorf("%s is %q", key, got)
	}
	if err != nil {
		return err
	}
	return a.Delete(ctx, key)
}

func runAsync(cache Cache) error {
	const goroutines = 1000
	a, err := NewAsync(cache)
	if err != nil {
		return err
	}
	defer a.Close()

	failures := make(chan error, goroutines)
	for i := 0; i < goroutines; i++ {
		go func(number int) { failures <- a.roundTrip(context.Background(), number) }(i)
	}
	for i := 0; i < goroutines; i++ {
		if failure := <-failures; failure != nil && err == nil {
			err = failure
		}
	}
	if err == nil {
		fmt.Printf("async: %d goroutines, each with a value of its own\n", goroutines)
	}
	return err
}
