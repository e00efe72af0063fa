//! The redis crate's synchronous connection behind C functions: commands built and replies read as its documentation
//! shows. The answers are the harness's: the bytes received, -1 for a miss, -2 for a failure.

use std::ffi::{CStr, c_char, c_long, c_void};
use std::slice;

use redis::{Cmd, Connection, RedisResult};

#[cfg(feature = "multiplexed")]
mod multiplexed;

const MISS: c_long = -1;
const FAILED: c_long = -2;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    data: *const u8,
    len: usize,
}

impl Bytes {
    /// The caller's bytes, for as long as its call lasts.
    unsafe fn get<'a>(self) -> &'a [u8] {
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }
}

fn value(answer: RedisResult<Option<Vec<u8>>>) -> c_long {
    match answer {
        Ok(Some(value)) => value.len() as c_long,
        Ok(None) => MISS,
        Err(_) => FAILED,
    }
}

fn values(answer: RedisResult<Vec<Option<Vec<u8>>>>) -> c_long {
    answer.map_or(FAILED, |all| all.iter().flatten().map(|value| value.len() as c_long).sum())
}

fn done(answer: RedisResult<()>) -> c_long {
    answer.map_or(FAILED, |()| 0)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_open(url: *const c_char) -> *mut c_void {
    let url = unsafe { CStr::from_ptr(url) }.to_str().unwrap_or_default();
    match redis::Client::open(url).and_then(|client| client.get_connection()) {
        Ok(connection) => Box::into_raw(Box::new(connection)).cast(),
        Err(_) => std::ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_close(connection: *mut c_void) {
    drop(unsafe { Box::from_raw(connection.cast::<Connection>()) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_get(connection: *mut c_void, key: Bytes) -> c_long {
    let connection = unsafe { &mut *connection.cast::<Connection>() };
    value(redis::cmd("GET").arg(unsafe { key.get() }).query(connection))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_set(
    connection: *mut c_void,
    key: Bytes,
    value: Bytes,
    ttl_ms: i64,
) -> c_long {
    let connection = unsafe { &mut *connection.cast::<Connection>() };
    let mut command: Cmd = redis::cmd("SET");
    command.arg(unsafe { key.get() }).arg(unsafe { value.get() });
    if ttl_ms > 0 {
        command.arg("PX").arg(ttl_ms);
    }
    done(command.query(connection))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_mget(
    connection: *mut c_void,
    keys: *const Bytes,
    count: usize,
) -> c_long {
    let connection = unsafe { &mut *connection.cast::<Connection>() };
    let mut command = redis::cmd("MGET");
    for key in unsafe { slice::from_raw_parts(keys, count) } {
        command.arg(unsafe { key.get() });
    }
    values(command.query(connection))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_mset(
    connection: *mut c_void,
    keys: *const Bytes,
    values: *const Bytes,
    count: usize,
) -> c_long {
    let connection = unsafe { &mut *connection.cast::<Connection>() };
    let (keys, values) =
        unsafe { (slice::from_raw_parts(keys, count), slice::from_raw_parts(values, count)) };
    let mut command = redis::cmd("MSET");
    for (key, value) in keys.iter().zip(values) {
        command.arg(unsafe { key.get() }).arg(unsafe { value.get() });
    }
    done(command.query(connection))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shim_pipeline(
    connection: *mut c_void,
    keys: *const Bytes,
    count: usize,
) -> c_long {
    let connection = unsafe { &mut *connection.cast::<Connection>() };
    let mut pipe = redis::pipe();
    for key in unsafe { slice::from_raw_parts(keys, count) } {
        pipe.cmd("GET").arg(unsafe { key.get() });
    }
    values(pipe.query(connection))
}
