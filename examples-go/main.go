// A cache from Go, straight through the C ABI.
//
//	go run . redis://localhost:6379
//
// needs cgo and an installed library. In a prefix of its own that is named twice: for the compiler by
// PKG_CONFIG_PATH=PREFIX/lib/pkgconfig, for the program by LD_LIBRARY_PATH=PREFIX/lib.
package main

// #cgo pkg-config: cachetory
// #include <stdlib.h>
// #include <cachetory.h>
import "C"

import (
	"fmt"
	"os"
	"unsafe"
)

// Error is a failed call: negative statuses only. That a key is not there is an answer.
type Error struct {
	Status       int
	Retryable    bool
	MaybeApplied bool
	Message      string
}

func (e *Error) Error() string {
	return C.GoString(C.cachetory_status_name(C.cachetory_status_t(e.Status))) + ": " + e.Message
}

// check reads the caller's own error struct, so it does not matter on which thread the goroutine runs by now.
func check(status C.cachetory_status_t, e *C.cachetory_error_t) error {
	if status >= 0 {
		return nil
	}
	return &Error{
		Status:       int(status),
		Retryable:    e.flags&C.CACHETORY_ERROR_RETRYABLE != 0,
		MaybeApplied: e.flags&C.CACHETORY_ERROR_MAYBE_APPLIED != 0,
		Message:      C.GoString(&e.message[0]),
	}
}

// Cache is a handle: a number, to be copied freely and used by any goroutine.
type Cache struct{ handle C.cachetory_t }

func Open(url string) (Cache, error) {
	text := C.CString(url)
	defer C.free(unsafe.Pointer(text))
	var cache Cache
	var e C.cachetory_error_t
	return cache, check(C.cachetory_open_url(text, &cache.handle, &e), &e)
}

func (c Cache) Close() { C.cachetory_close(c.handle) }

// pointer is where the bytes begin. The library keeps no pointer after a call, so a call may be given Go's own memory.
func pointer(bytes []byte) unsafe.Pointer {
	if len(bytes) == 0 {
		return nil
	}
	return unsafe.Pointer(&bytes[0])
}

func (c Cache) Set(key, value []byte, ttlMilliseconds int64) error {
	var e C.cachetory_error_t
	return check(C.cachetory_set(c.handle, pointer(key), C.size_t(len(key)), pointer(value), C.size_t(len(value)),
		C.int64_t(ttlMilliseconds), 0, &e), &e)
}

// Get answers nil for a key that is not there; an empty value is not nil.
func (c Cache) Get(key []byte) ([]byte, error) {
	var value C.cachetory_value_t
	var e C.cachetory_error_t
	status := C.cachetory_get(c.handle, pointer(key), C.size_t(len(key)), &value, &e)
	defer C.cachetory_value_free(&value)
	if status != C.CACHETORY_OK {
		return nil, check(status, &e)
	}
	return copied(value.data, value.len), nil
}

// MGet answers each key in its place, nil for one that is not there.
func (c Cache) MGet(keys ...string) ([][]byte, error) {
	array, free := bytesArray(keys)
	defer free()
	var values C.cachetory_values_t
	var e C.cachetory_error_t
	status := C.cachetory_mget(c.handle, array, C.size_t(len(keys)), &values, &e)
	defer C.cachetory_values_free(&values)
	if status != C.CACHETORY_OK {
		return nil, check(status, &e)
	}
	answers := make([][]byte, len(keys))
	for i, item := range unsafe.Slice(values.items, int(values.len)) {
		if item.data != nil {
			answers[i] = copied(item.data, item.len)
		}
	}
	return answers, nil
}

// bytesArray copies the keys into C's memory, array and bytes in one allocation: C may not be given Go memory in which
// there are pointers to Go memory.
func bytesArray(keys []string) (*C.cachetory_bytes_t, func()) {
	if len(keys) == 0 {
		return nil, func() {}
	}
	const itemSize = int(unsafe.Sizeof(C.cachetory_bytes_t{}))
	total := len(keys) * itemSize
	for _, key := range keys {
		total += len(key)
	}
	block := C.malloc(C.size_t(total)) // never nil: cgo ends the program instead
	items := unsafe.Slice((*C.cachetory_bytes_t)(block), len(keys))
	text := unsafe.Slice((*byte)(block), total)
	at := len(keys) * itemSize
	for i, key := range keys {
		items[i].data = (*C.char)(unsafe.Add(block, at))
		items[i].len = C.size_t(len(key))
		at += copy(text[at:], key)
	}
	return (*C.cachetory_bytes_t)(block), func() { C.free(block) }
}

// copied is not nil, even for no bytes. (C.GoBytes counts in C's int, which large values do not fit.)
func copied(data *C.char, length C.size_t) []byte {
	return append([]byte{}, unsafe.Slice((*byte)(unsafe.Pointer(data)), int(length))...)
}

func run(url string) error {
	cache, err := Open(url)
	if err != nil {
		return err
	}
	defer cache.Close()

	const minute = 60 * 1000
	if err := cache.Set([]byte("example:greeting"), []byte("hello"), minute); err != nil {
		return err
	}
	if err := cache.Set([]byte("example:empty"), nil, minute); err != nil {
		return err
	}
	greeting, err := cache.Get([]byte("example:greeting"))
	if err != nil {
		return err
	}
	fmt.Printf("get: %s\n", greeting)

	keys := []string{"example:greeting", "example:missing", "example:empty"}
	values, err := cache.MGet(keys...)
	if err != nil {
		return err
	}
	for i, value := range values {
		if value == nil {
			fmt.Printf("mget: %s: not there\n", keys[i])
		} else {
			fmt.Printf("mget: %s: %d bytes\n", keys[i], len(value))
		}
	}

	// A ttl of 0 is refused.
	if err := cache.Set([]byte("example:greeting"), []byte("hello"), 0); err != nil {
		failure := err.(*Error)
		fmt.Printf("error: %d, retryable: %t\n", failure.Status, failure.Retryable)
		fmt.Fprintln(os.Stderr, failure)
	}
	return runAsync(cache)
}

func main() {
	url := os.Getenv("CACHETORY_URL")
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	if url == "" {
		url = "memory://"
	}
	if err := run(url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
