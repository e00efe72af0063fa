//! The C symbols behind a safe face. Every call is made with outputs full of rubbish, and checked against what the
//! header promises of all of them: outputs emptied unless there is an answer, and an error struct that agrees with the
//! status.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cachetory::ffi::cache::*;
use cachetory::ffi::types::*;

use super::queue::{Completion, Queue, Submit};

pub use cachetory::ffi::status::*;
pub use cachetory::ffi::types::{
    CACHETORY_ERROR_MAYBE_APPLIED as MAYBE_APPLIED, CACHETORY_ERROR_RETRYABLE as RETRYABLE,
    CACHETORY_NO_EXPIRY as NO_EXPIRY, CACHETORY_SET_IF_NOT_EXISTS as IF_NOT_EXISTS,
};

pub const STRLEN: usize = usize::MAX;

/// A call that returned less than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: i32,
    pub flags: u32,
    pub message: String,
}

impl Failure {
    pub fn is_retryable(&self) -> bool {
        self.flags & RETRYABLE != 0
    }

    pub fn is_maybe_applied(&self) -> bool {
        self.flags & MAYBE_APPLIED != 0
    }
}

/// The status where it is an answer: CACHETORY_OK, CACHETORY_NOT_FOUND, CACHETORY_NOT_STORED.
pub type Outcome = Result<i32, Failure>;

pub type Bytes = Vec<u8>;

const RUBBISH: u8 = 0xa5;

/// An error struct that no call has touched.
pub fn rubbish_error() -> cachetory_error_t {
    cachetory_error_t { status: 77, flags: 0x7777, message: [RUBBISH as c_char; 504] }
}

pub fn rubbish_value() -> cachetory_value_t {
    let address = ptr::without_provenance_mut::<c_void>(0x7777);
    cachetory_value_t { data: address.cast(), len: 7, owner: address }
}

pub fn rubbish_values() -> cachetory_values_t {
    let address = ptr::without_provenance_mut::<c_void>(0x7777);
    cachetory_values_t { items: address.cast(), len: 7, owner: address }
}

/// The message of an error that a call has filled.
#[track_caller]
pub fn message(error: &cachetory_error_t) -> String {
    let bytes: Vec<u8> = error.message.iter().map(|&byte| byte as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).expect("a terminated message");
    text.to_str().expect("a message in UTF-8").to_owned()
}

/// Makes a call and holds its error against its status.
#[track_caller]
pub fn outcome(call: impl FnOnce(*mut cachetory_error_t) -> i32) -> Outcome {
    let mut error = rubbish_error();
    let status = call(&mut error);
    assert_eq!(error.status, status, "the error's status is the call's");
    let message = message(&error);
    let flags = error.flags;
    assert_eq!(flags & !(RETRYABLE | MAYBE_APPLIED), 0, "unknown flags: {flags:#x}");
    if status < 0 {
        assert_ne!(message, "", "a failure has a message");
        return Err(Failure { status, flags, message });
    }
    assert_eq!((flags, message.as_str()), (0, ""), "an answer has no message");
    Ok(status)
}

pub fn borrow(bytes: &[u8]) -> cachetory_bytes_t {
    cachetory_bytes_t { data: bytes.as_ptr().cast(), len: bytes.len() }
}

pub fn borrow_all<K: AsRef<[u8]>>(keys: &[K]) -> Vec<cachetory_bytes_t> {
    keys.iter().map(|key| borrow(key.as_ref())).collect()
}

pub fn borrow_items<K: AsRef<[u8]>, V: AsRef<[u8]>>(items: &[(K, V)]) -> Vec<cachetory_item_t> {
    let item = |(key, value): &(K, V)| cachetory_item_t {
        key: borrow(key.as_ref()),
        value: borrow(value.as_ref()),
    };
    items.iter().map(item).collect()
}

/// A value as C has it.
pub struct Value(cachetory_value_t);

// SAFETY: any thread may read and release a value.
unsafe impl Send for Value {}

impl Value {
    pub fn from_raw(value: cachetory_value_t) -> Self {
        Self(value)
    }

    pub fn bytes(&self) -> &[u8] {
        assert!(!self.0.data.is_null(), "a hit has data");
        // SAFETY: the library filled it, and it is not released before `self`.
        unsafe {
            assert_eq!(*self.0.data.add(self.0.len), 0, "data[len] is 0");
            std::slice::from_raw_parts(self.0.data.cast(), self.0.len)
        }
    }

    pub fn raw(&mut self) -> &mut cachetory_value_t {
        &mut self.0
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the library filled it, or it is empty.
        unsafe { cachetory_value_free(&mut self.0) };
        assert!(self.0.data.is_null() && self.0.len == 0 && self.0.owner.is_null());
    }
}

/// A batch as C has it.
pub struct Values(cachetory_values_t);

// SAFETY: any thread may read and release a batch.
unsafe impl Send for Values {}

impl Values {
    pub fn from_raw(values: cachetory_values_t) -> Self {
        Self(values)
    }

    pub fn len(&self) -> usize {
        self.0.len
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        assert!(index < self.len());
        // SAFETY: the library filled it, and it is not released before `self`.
        unsafe {
            let item = &*self.0.items.add(index);
            if item.data.is_null() {
                assert_eq!(item.len, 0, "a miss has no length");
                return None;
            }
            assert_eq!(*item.data.add(item.len), 0, "data[len] is 0");
            Some(std::slice::from_raw_parts(item.data.cast(), item.len))
        }
    }

    pub fn to_vec(&self) -> Vec<Option<Bytes>> {
        (0..self.len()).map(|index| self.get(index).map(<[u8]>::to_vec)).collect()
    }

    pub fn raw(&mut self) -> &mut cachetory_values_t {
        &mut self.0
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        // SAFETY: the library filled it, or it is empty.
        unsafe { cachetory_values_free(&mut self.0) };
        assert!(self.0.items.is_null() && self.0.len == 0 && self.0.owner.is_null());
    }
}

/// How the calls on a cache are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Synchronous,
    /// Submitted; a thread waits on the queue for the completion.
    Waited,
    /// Submitted; a loop polls the queue's descriptor, and takes what is there when it is readable.
    Polled,
}

pub const FACES: [Face; 3] = [Face::Synchronous, Face::Waited, Face::Polled];

impl Face {
    /// The status of a call that was in flight when its cache was closed.
    pub fn closed_under_way(self) -> i32 {
        if self == Self::Synchronous { CACHETORY_ERR_CLOSED } else { CACHETORY_ERR_CANCELLED }
    }
}

/// A handle that is closed with this value, if not before.
pub struct Cache {
    handle: cachetory_t,
    face: Face,
    /// Those that no submitted call is using. A queue is kept, for it learns whether who submits comes to wait.
    queues: Mutex<Vec<Queue>>,
}

impl Cache {
    /// With long deadlines, where the URL has none.
    pub fn open(url: &str) -> Result<Self, Failure> {
        let url = std::ffi::CString::new(super::patient(url)).expect("a URL without NUL");
        let mut out = MaybeUninit::<cachetory_t>::uninit();
        out.write(cachetory_t { id: 0x7777 });
        // SAFETY: the URL is terminated, the output and the error are ours.
        let status =
            outcome(|error| unsafe { cachetory_open_url(url.as_ptr(), out.as_mut_ptr(), error) });
        // SAFETY: written above.
        let handle = unsafe { out.assume_init() };
        match status {
            Ok(status) => {
                assert_eq!(status, CACHETORY_OK);
                assert!(handle.id > u64::from(u32::MAX), "an id does not fit in 32 bits");
                Ok(Self::from_raw(handle))
            }
            Err(failure) => {
                assert_eq!(handle.id, 0, "no handle where opening failed");
                Err(failure)
            }
        }
    }

    #[track_caller]
    pub fn must_open(url: &str) -> Self {
        Self::open(url).unwrap_or_else(|failure| panic!("{url}: {failure:?}"))
    }

    /// A handle that the caller made up, or got from elsewhere.
    pub fn from_raw(handle: cachetory_t) -> Self {
        Self { handle, face: Face::Synchronous, queues: Mutex::default() }
    }

    /// The same handle, whose every call is made in this way.
    pub fn with(mut self, face: Face) -> Self {
        self.face = face;
        self
    }

    pub fn face(&self) -> Face {
        self.face
    }

    pub fn raw(&self) -> cachetory_t {
        self.handle
    }

    /// The completion of a call, or what its submission failed with.
    fn complete(&self, submit: impl FnOnce(Submit) -> Outcome) -> Result<Completion, Failure> {
        let queues = || self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues().pop().unwrap_or_else(Queue::open);
        assert_eq!(submit(self.to(&queue))?, CACHETORY_OK, "a submission is accepted, or fails");
        let completion = match self.face {
            Face::Polled => queue.next_of_a_loop(),
            _ => queue.next(),
        };
        queue.assert_empty();
        queues().push(queue);
        completion.outcome().map(|_| completion)
    }

    fn is_submitted(&self) -> bool {
        self.face != Face::Synchronous
    }

    fn complete_plain(&self, submit: impl FnOnce(Submit) -> Outcome) -> Outcome {
        self.complete(submit)?.outcome()
    }

    /// The handle stays, and names nothing any more.
    pub fn close(&self) -> i32 {
        cachetory_close(self.handle)
    }

    pub fn ping(&self) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.ping(1));
        }
        // SAFETY: the error is ours.
        outcome(|error| unsafe { cachetory_ping(self.handle, error) })
    }

    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Failure> {
        Ok(self.get_value(key)?.map(|value| value.bytes().to_vec()))
    }

    pub fn get_value(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Failure> {
        if self.is_submitted() {
            let mut completion = self.complete(|to| to.get(1, key))?;
            let value = completion.take_value();
            assert_eq!(completion.outcome()? == CACHETORY_OK, value.is_some());
            return Ok(value);
        }
        let key = borrow(key.as_ref());
        let mut out = rubbish_value();
        // SAFETY: the key is borrowed for the call, the output and the error are ours.
        let status = outcome(|error| unsafe {
            cachetory_get(self.handle, key.data.cast(), key.len, &mut out, error)
        });
        if status == Ok(CACHETORY_OK) {
            return Ok(Some(Value(out)));
        }
        assert!(
            out.data.is_null() && out.len == 0 && out.owner.is_null(),
            "no value without a hit"
        );
        assert_eq!(status?, CACHETORY_NOT_FOUND);
        Ok(None)
    }

    pub fn mget<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>, Failure> {
        Ok(self.mget_values(keys)?.to_vec())
    }

    pub fn mget_values<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Values, Failure> {
        if self.is_submitted() {
            let values = self.complete(|to| to.mget(1, keys))?.take_values();
            assert_eq!(values.len(), keys.len(), "as many answers as keys");
            return Ok(values);
        }
        let borrowed = borrow_all(keys);
        let mut out = rubbish_values();
        // SAFETY: the keys are borrowed for the call, the output and the error are ours.
        let status = outcome(|error| unsafe {
            cachetory_mget(self.handle, borrowed.as_ptr(), borrowed.len(), &mut out, error)
        });
        match status {
            Ok(status) => {
                assert_eq!(status, CACHETORY_OK);
                assert_eq!(out.len, keys.len(), "as many answers as keys");
                Ok(Values(out))
            }
            Err(failure) => {
                assert!(out.items.is_null() && out.len == 0 && out.owner.is_null());
                Err(failure)
            }
        }
    }

    /// Without expiry.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Outcome {
        self.set_with(key, value, NO_EXPIRY, 0)
    }

    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl_ms: i64,
        flags: u32,
    ) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.set(1, key, value, ttl_ms, flags));
        }
        let (key, value) = (borrow(key.as_ref()), borrow(value.as_ref()));
        // SAFETY: key and value are borrowed for the call, the error is ours.
        outcome(|error| unsafe {
            cachetory_set(
                self.handle,
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

    pub fn mset<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, items: &[(K, V)], ttl_ms: i64) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.mset(1, items, ttl_ms));
        }
        let items = borrow_items(items);
        // SAFETY: the items are borrowed for the call, the error is ours.
        outcome(|error| unsafe {
            cachetory_mset(self.handle, items.as_ptr(), items.len(), ttl_ms, 0, error)
        })
    }

    pub fn expire_in(&self, key: impl AsRef<[u8]>, ttl_ms: i64) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.expire_in(1, key, ttl_ms));
        }
        let key = borrow(key.as_ref());
        // SAFETY: the key is borrowed for the call, the error is ours.
        outcome(|error| unsafe {
            cachetory_expire_in(self.handle, key.data.cast(), key.len, ttl_ms, error)
        })
    }

    pub fn expire_at(&self, key: impl AsRef<[u8]>, unix_ms: i64) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.expire_at(1, key, unix_ms));
        }
        let key = borrow(key.as_ref());
        // SAFETY: the key is borrowed for the call, the error is ours.
        outcome(|error| unsafe {
            cachetory_expire_at(self.handle, key.data.cast(), key.len, unix_ms, error)
        })
    }

    pub fn delete(&self, key: impl AsRef<[u8]>) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.delete(1, key));
        }
        let key = borrow(key.as_ref());
        // SAFETY: the key is borrowed for the call, the error is ours.
        outcome(|error| unsafe { cachetory_delete(self.handle, key.data.cast(), key.len, error) })
    }

    /// How many were there.
    pub fn mdelete<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<u64, Failure> {
        if self.is_submitted() {
            return Ok(self.complete(|to| to.mdelete(1, keys))?.deleted());
        }
        let keys = borrow_all(keys);
        let mut deleted = 0x7777;
        // SAFETY: the keys are borrowed for the call, the output and the error are ours.
        let status = outcome(|error| unsafe {
            cachetory_mdelete(self.handle, keys.as_ptr(), keys.len(), &mut deleted, error)
        });
        match status {
            Ok(status) => assert_eq!(status, CACHETORY_OK),
            Err(_) => assert_eq!(deleted, 0, "no count without an answer"),
        }
        status.map(|_| deleted)
    }

    pub fn clear(&self) -> Outcome {
        if self.is_submitted() {
            return self.complete_plain(|to| to.clear(1));
        }
        // SAFETY: the error is ours.
        outcome(|error| unsafe { cachetory_clear(self.handle, error) })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close();
    }
}
