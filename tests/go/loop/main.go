// loop URL: calls on Go's network poller: each goroutine has a queue, and sleeps until its descriptor is readable,
// without a thread of its own.
package main

// #include <stdlib.h>
// #include <cachetory.h>
import "C"

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	loops    = 4
	calls    = 5000
	capacity = 16
	keys     = 50
	// Nothing takes that long.
	patience = 2 * time.Minute
)

func must(status C.cachetory_status_t, e *C.cachetory_error_t) {
	if status != C.CACHETORY_OK {
		panic(C.GoString(C.cachetory_status_name(status)) + ": " + C.GoString(&e.message[0]))
	}
}

func key(number int) []byte {
	return []byte(fmt.Sprintf("go:%d", number))
}

func length(number int) int {
	if number == 0 {
		return 300000
	}
	return number * 11
}

func pointer(b []byte) unsafe.Pointer {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Pointer(&b[0])
}

// watch is the descriptor of a queue as a file that the poller knows.
func watch(queue C.cachetory_queue_t) *os.File {
	fd := uintptr(C.cachetory_queue_fd(queue))
	duplicate, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 3)
	if errno != 0 {
		panic(errno)
	}
	// Only what does not block is handed to the poller.
	if err := syscall.SetNonblock(int(duplicate), true); err != nil {
		panic(err)
	}
	file := os.NewFile(duplicate, "queue")
	if err := file.SetReadDeadline(time.Now().Add(patience)); err != nil {
		panic(err)
	}
	return file
}

// each calls turn each time that the descriptor may have become readable, until it says that it is done.
func each(file *os.File, turn func() bool) {
	connection, err := file.SyscallConn()
	if err != nil {
		panic(err)
	}
	if err := connection.Read(func(uintptr) bool { return turn() }); err != nil {
		panic(err)
	}
}

func openQueue() C.cachetory_queue_t {
	var queue C.cachetory_queue_t
	var e C.cachetory_error_t
	must(C.cachetory_queue_open(&queue, &e), &e)
	return queue
}

// loop makes so many calls, window of them at a time.
func loop(cache C.cachetory_t, window int) {
	queue := openQueue()
	file := watch(queue)
	completions := make([]C.cachetory_completion_t, capacity)
	seen := make([]bool, calls)
	next, done := 0, 0
	var e C.cachetory_error_t
	each(file, func() bool {
		for {
			var count C.size_t
			must(C.cachetory_queue_wait(queue, &completions[0], capacity, 0, &count, &e), &e)
			for i := range completions[:count] {
				completion := &completions[i]
				number := int(completion.tag)
				if number >= next || seen[number] {
					panic("a call that is outstanding")
				}
				if completion.status != C.CACHETORY_OK || int(completion.value.len) != length(number%keys) {
					panic(fmt.Sprintf("call %d: status %d, %d bytes", number, completion.status, completion.value.len))
				}
				seen[number] = true
				done++
				C.cachetory_completion_free(completion)
			}
			if count == 0 {
				break
			}
		}
		for next < calls && next-done < window {
			name := key(next % keys)
			must(C.cachetory_get_async(cache, queue, C.uint64_t(next), pointer(name), C.size_t(len(name)), &e), &e)
			next++
		}
		return done == calls
	})
	file.Close()
	must(C.cachetory_queue_close(queue), &e)
}

// closes waits on a queue that another goroutine closes.
func closes() {
	queue := openQueue()
	file := watch(queue)
	ended := make(chan struct{})
	waits := make(chan struct{}, 1)
	go func() {
		defer close(ended)
		each(file, func() bool {
			var completion C.cachetory_completion_t
			var count C.size_t
			select {
			case waits <- struct{}{}:
			default:
			}
			return C.cachetory_queue_wait(queue, &completion, 1, 0, &count, nil) == C.CACHETORY_ERR_CLOSED
		})
	}()
	<-waits
	var e C.cachetory_error_t
	must(C.cachetory_queue_close(queue), &e)
	<-ended
	file.Close()
}

func main() {
	var cache C.cachetory_t
	var e C.cachetory_error_t
	url := C.CString(os.Args[1])
	defer C.free(unsafe.Pointer(url))
	must(C.cachetory_open_url(url, &cache, &e), &e)
	for number := 0; number < keys; number++ {
		name, value := key(number), make([]byte, length(number)+1)
		must(C.cachetory_set(cache, pointer(name), C.size_t(len(name)), pointer(value), C.size_t(length(number)),
			C.CACHETORY_NO_EXPIRY, 0, &e), &e)
	}
	for _, window := range []int{1, 8, 500} {
		var all sync.WaitGroup
		for i := 0; i < loops; i++ {
			all.Add(1)
			go func() {
				defer all.Done()
				loop(cache, window)
			}()
		}
		all.Wait()
	}
	for i := 0; i < 50; i++ {
		closes()
	}
	must(C.cachetory_close(cache), &e)
}
