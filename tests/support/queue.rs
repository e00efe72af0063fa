//! The asynchronous C symbols behind a safe face, as strict as `capi`.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Instant;

use cachetory::ffi::completion::cachetory_completion_t;
use cachetory::ffi::queue::*;
use cachetory::ffi::submit::*;
use cachetory::ffi::types::*;

use super::PATIENCE;
use super::capi::*;

/// A handle that is closed with this value, if not before.
pub struct Queue(cachetory_queue_t);

impl Queue {
    #[track_caller]
    pub fn open() -> Self {
        let mut out = cachetory_queue_t { id: 0x7777 };
        // SAFETY: the output and the error are ours.
        let status = outcome(|error| unsafe { cachetory_queue_open(&mut out, error) });
        assert_eq!(status, Ok(CACHETORY_OK));
        assert!(out.id > u64::from(u32::MAX), "an id does not fit in 32 bits");
        Self(out)
    }

    /// A handle that the caller made up, or got from elsewhere.
    pub fn from_raw(handle: cachetory_queue_t) -> Self {
        Self(handle)
    }

    pub fn raw(&self) -> cachetory_queue_t {
        self.0
    }

    /// The handle stays, and names nothing any more.
    pub fn close(&self) -> i32 {
        cachetory_queue_close(self.0)
    }

    pub fn fd(&self) -> i32 {
        cachetory_queue_fd(self.0)
    }

    pub fn cancel(&self, tag: u64) -> Outcome {
        // SAFETY: the error is ours.
        outcome(|error| unsafe { cachetory_queue_cancel(self.0, tag, error) })
    }

    pub fn wait(&self, capacity: usize, timeout_ms: i64) -> Result<Vec<Completion>, Failure> {
        let mut out: Vec<MaybeUninit<cachetory_completion_t>> = Vec::new();
        out.resize_with(capacity, || MaybeUninit::new(rubbish_completion()));
        let mut count = 77;
        let first = out.as_mut_ptr().cast();
        // SAFETY: there is room for so many completions; the count and the error are ours.
        let status = outcome(|error| unsafe {
            cachetory_queue_wait(self.0, first, capacity, timeout_ms, &mut count, error)
        });
        if let Err(failure) = status {
            assert_eq!(count, 0, "no completion where waiting failed");
            return Err(failure);
        }
        assert_eq!(status, Ok(CACHETORY_OK));
        assert!(count <= capacity);
        // SAFETY: each is initialised, with rubbish or with what the library has written.
        let mut all: Vec<_> = out.into_iter().map(|each| unsafe { each.assume_init() }).collect();
        let rest = all.split_off(count);
        assert!(rest.iter().all(|each| each.tag == 0x7777), "no more is written than counted");
        Ok(all.into_iter().map(Completion::new).collect())
    }

    /// The next one, however long it takes.
    #[track_caller]
    pub fn next(&self) -> Completion {
        let mut one = self.wait(1, PATIENCE.as_millis() as i64).unwrap();
        one.pop().expect("a completion")
    }

    /// The next one, as a loop takes it: it comes when the descriptor is readable, and never waits on the queue.
    #[track_caller]
    pub fn next_of_a_loop(&self) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            self.await_readable();
            if let Some(completion) = self.wait(1, 0).unwrap().pop() {
                return completion;
            }
            assert!(Instant::now() < end, "readable again and again, and no completion");
        }
    }

    /// Polls the descriptor, and nothing else, until it says that there is something to do.
    #[track_caller]
    pub fn await_readable(&self) {
        super::poll("the descriptor is readable", || {
            let mut fds = [libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: there is one.
            (unsafe { libc::poll(fds.as_mut_ptr(), 1, PATIENCE.as_millis() as i32) } == 1)
                .then_some(())
        });
    }

    /// Waits for something else, or for a completion, which is dropped; whether it was the other.
    #[track_caller]
    pub fn is_empty_until(&self, is_done: impl Fn() -> bool) -> bool {
        super::poll("it is done, or a completion is there", || {
            let is_empty = self.wait(1, 0).unwrap().is_empty();
            (!is_empty || is_done()).then_some(is_empty)
        })
    }

    /// Takes so many completions without ever waiting on the queue.
    #[track_caller]
    pub fn appear(&self, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        super::poll("the completions are there", || {
            all.extend(self.wait(64, 0).unwrap());
            (all.len() >= count).then_some(())
        });
        assert_eq!(all.len(), count);
        all
    }

    /// So many, by their tags, which differ.
    #[track_caller]
    pub fn take(&self, count: usize) -> HashMap<u64, Completion> {
        let mut taken = HashMap::new();
        while taken.len() < count {
            let some = self.wait(64, PATIENCE.as_millis() as i64).unwrap();
            assert!(!some.is_empty(), "{} of {count} came", taken.len());
            for each in some {
                let other = taken.insert(each.tag(), each);
                assert!(other.is_none(), "a tag is reported once");
            }
        }
        assert_eq!(taken.len(), count);
        taken
    }

    /// That nothing is there.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(self.wait(1, 0).unwrap().len(), 0);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

pub fn rubbish_completion() -> cachetory_completion_t {
    let address = ptr::without_provenance_mut::<c_void>(0x7777);
    cachetory_completion_t {
        tag: 0x7777,
        status: 77,
        flags: 0x7777,
        value: rubbish_value(),
        values: rubbish_values(),
        deleted: 0x7777,
        message: address.cast::<c_char>(),
        owner: address,
        reserved: [0x7777; 5],
    }
}

/// A completion as C has it.
pub struct Completion(cachetory_completion_t);

// SAFETY: any thread may read and release a completion.
unsafe impl Send for Completion {}

impl Completion {
    /// Held against what the header promises of all of them.
    #[track_caller]
    fn new(raw: cachetory_completion_t) -> Self {
        assert_eq!(raw.reserved, [0; 5]);
        let failed = raw.status < 0;
        assert_eq!(raw.message.is_null(), !failed, "a message where it failed");
        assert_eq!(raw.flags & !(RETRYABLE | MAYBE_APPLIED), 0, "unknown flags");
        let (value, values) = (&raw.value, &raw.values);
        let is_empty = value.data.is_null() && value.len == 0 && value.owner.is_null();
        assert!(is_empty || raw.status == CACHETORY_OK, "no value without an answer");
        let is_empty = values.items.is_null() && values.len == 0 && values.owner.is_null();
        assert!(is_empty || raw.status == CACHETORY_OK, "no values without an answer");
        assert!(raw.deleted == 0 || raw.status == CACHETORY_OK, "no count without an answer");
        if !failed {
            assert!(raw.flags == 0 && raw.owner.is_null());
        }
        Self(raw)
    }

    pub fn tag(&self) -> u64 {
        self.0.tag
    }

    /// As the synchronous call would have had it.
    #[track_caller]
    pub fn outcome(&self) -> Outcome {
        if self.0.status >= 0 {
            return Ok(self.0.status);
        }
        // SAFETY: the library terminated it, and it is not released before `self`.
        let message = unsafe { CStr::from_ptr(self.0.message) };
        let message = message.to_str().expect("a message in UTF-8").to_owned();
        assert_ne!(message, "");
        Err(Failure { status: self.0.status, flags: self.0.flags, message })
    }

    #[track_caller]
    pub fn failure(&self) -> Failure {
        self.outcome().expect_err("a call that failed")
    }

    pub fn deleted(&self) -> u64 {
        self.0.deleted
    }

    /// Moves the value out, as a caller does: what is left is released with the completion.
    pub fn take_value(&mut self) -> Option<Value> {
        let empty = cachetory_value_t::EMPTY;
        let value = std::mem::replace(&mut self.0.value, empty);
        (!value.data.is_null()).then(|| Value::from_raw(value))
    }

    pub fn take_values(&mut self) -> Values {
        Values::from_raw(std::mem::replace(&mut self.0.values, cachetory_values_t::EMPTY))
    }

    pub fn raw(&mut self) -> &mut cachetory_completion_t {
        &mut self.0
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        // SAFETY: the library filled it, or it is empty. Twice is fine.
        unsafe {
            cachetory_completion_free(&mut self.0);
            cachetory_completion_free(&mut self.0);
        }
        let Self(raw) = self;
        assert!(raw.value.owner.is_null() && raw.values.owner.is_null() && raw.owner.is_null());
        assert!(raw.value.data.is_null() && raw.values.items.is_null() && raw.message.is_null());
    }
}

/// Submissions from one cache to one queue.
#[derive(Clone, Copy)]
pub struct Submit {
    cache: cachetory_t,
    queue: cachetory_queue_t,
}

impl Cache {
    pub fn to(&self, queue: &Queue) -> Submit {
        Submit { cache: self.raw(), queue: queue.raw() }
    }
}

// SAFETY, below: keys, values and items are borrowed for the call, the error is ours.
impl Submit {
    pub fn ping(self, tag: u64) -> Outcome {
        outcome(|error| unsafe { cachetory_ping_async(self.cache, self.queue, tag, error) })
    }

    pub fn get(self, tag: u64, key: impl AsRef<[u8]>) -> Outcome {
        let key = borrow(key.as_ref());
        outcome(|error| unsafe {
            cachetory_get_async(self.cache, self.queue, tag, key.data.cast(), key.len, error)
        })
    }

    pub fn mget<K: AsRef<[u8]>>(self, tag: u64, keys: &[K]) -> Outcome {
        let keys = borrow_all(keys);
        outcome(|error| unsafe {
            cachetory_mget_async(self.cache, self.queue, tag, keys.as_ptr(), keys.len(), error)
        })
    }

    pub fn set(
        self,
        tag: u64,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl_ms: i64,
        flags: u32,
    ) -> Outcome {
        let (key, value) = (borrow(key.as_ref()), borrow(value.as_ref()));
        outcome(|error| unsafe {
            cachetory_set_async(
                self.cache,
                self.queue,
                tag,
                key.data.cast(),
                key.len,
                value.data.cast(),
                value.len,
                ttl_ms,
                flags,
                error,
            )
        })
    }

    pub fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        self,
        tag: u64,
        items: &[(K, V)],
        ttl_ms: i64,
    ) -> Outcome {
        let items = borrow_items(items);
        let (first, count) = (items.as_ptr(), items.len());
        outcome(|error| unsafe {
            cachetory_mset_async(self.cache, self.queue, tag, first, count, ttl_ms, 0, error)
        })
    }

    pub fn expire_in(self, tag: u64, key: impl AsRef<[u8]>, ttl_ms: i64) -> Outcome {
        let key = borrow(key.as_ref());
        let (data, len) = (key.data.cast(), key.len);
        outcome(|error| unsafe {
            cachetory_expire_in_async(self.cache, self.queue, tag, data, len, ttl_ms, error)
        })
    }

    pub fn expire_at(self, tag: u64, key: impl AsRef<[u8]>, unix_ms: i64) -> Outcome {
        let key = borrow(key.as_ref());
        let (data, len) = (key.data.cast(), key.len);
        outcome(|error| unsafe {
            cachetory_expire_at_async(self.cache, self.queue, tag, data, len, unix_ms, error)
        })
    }

    pub fn delete(self, tag: u64, key: impl AsRef<[u8]>) -> Outcome {
        let key = borrow(key.as_ref());
        outcome(|error| unsafe {
            cachetory_delete_async(self.cache, self.queue, tag, key.data.cast(), key.len, error)
        })
    }

    pub fn mdelete<K: AsRef<[u8]>>(self, tag: u64, keys: &[K]) -> Outcome {
        let keys = borrow_all(keys);
        outcome(|error| unsafe {
            cachetory_mdelete_async(self.cache, self.queue, tag, keys.as_ptr(), keys.len(), error)
        })
    }

    pub fn clear(self, tag: u64) -> Outcome {
        outcome(|error| unsafe { cachetory_clear_async(self.cache, self.queue, tag, error) })
    }
}
